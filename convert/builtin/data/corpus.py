"""The text of the built-in pair: standard-library code, and questions and answers.

Everything is read from the running interpreter and from the data files of this folder, so the corpus needs no download.
What is held out for measuring is decided by a hash of the item's name and never depends on the rest of the corpus.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from helix_mlx.convert.builtin.data import docstrings
from helix_mlx.toml import read_toml

TextKind = Literal["code", "stdlib", "helix"]
KINDS: tuple[TextKind, ...] = ("code", "stdlib", "helix")

QUESTIONS_FILE = Path(__file__).with_name("helix_questions.toml")
CHAT_FILE = Path(__file__).with_name("chat.toml")
SELECTION_FILE = Path(__file__).with_name("corpus.toml")

MAX_FILE_CHARS = 60_000


@dataclass(frozen=True)
class CodeFile:
    """One source file: its path under the standard library, and its text."""

    name: str
    text: str


@dataclass(frozen=True)
class Question:
    """One question with its answer. ``subject`` names what it is about: a function, a module or a topic."""

    kind: TextKind
    subject: str
    question: str
    answer: str


@dataclass(frozen=True)
class Selection:
    """What is taken from the standard library (``corpus.toml``)."""

    left_out_folders: frozenset[str]
    left_out_files: frozenset[str]
    question_modules: dict[str, str]
    question_classes: frozenset[str]

    def is_code(self, file: CodeFile) -> bool:
        """Whether a source is learnt as code: of middle size, plain ASCII, not a table."""
        return file.name not in self.left_out_files and 400 <= len(file.text) <= MAX_FILE_CHARS and file.text.isascii()

    def known_name(self, file: CodeFile) -> str:
        """The name under which a module is asked about."""
        name = docstrings.module_name(file.name)
        return self.question_modules.get(name, name)

    def is_asked(self, file: CodeFile, subject: str) -> bool:
        """Whether the target learns the answers about ``subject``, a name of ``file``."""
        if docstrings.module_name(file.name) not in self.question_modules:
            return False
        module = self.known_name(file)
        if subject == module:  # a part of a module does not speak for the whole
            return docstrings.module_name(file.name) == module
        owner, _, method = subject.removeprefix(module + ".").partition(".")
        return not method or f"{module}.{owner}" in self.question_classes


@dataclass(frozen=True)
class Corpus:
    """The whole corpus: what is trained on, what is held out to measure on, and ``unasked``.

    ``unasked`` are questions about names that are in neither part: the target is never trained on their answers, but
    the draft learns from what the target makes of them.
    """

    code: tuple[CodeFile, ...]
    questions: tuple[Question, ...]
    held_out_code: tuple[CodeFile, ...]
    held_out_questions: tuple[Question, ...]
    unasked: tuple[Question, ...]


def hash_share(key: str) -> float:
    """A number in [0, 1) that depends on ``key`` alone."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def standard_library() -> Path:
    """The folder of the running interpreter's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def read_selection(file: Path = SELECTION_FILE) -> Selection:
    """The selection of a data file."""
    data = read_toml(file)
    return Selection(
        left_out_folders=frozenset(data["left_out_folders"]),
        left_out_files=frozenset(data["left_out_files"]),
        question_modules={name: name for name in data["question_modules"]} | data["known_as"],
        question_classes=frozenset(data["question_classes"]),
    )


def source_files(root: Path, selection: Selection) -> Iterator[CodeFile]:
    """The sources of the standard library at ``root``, sorted by name, without installed packages and tests."""
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if selection.left_out_folders.intersection(name.parts):
            continue
        # Generated at build time, with the paths of the machine in it.
        if any(part.startswith(("_sysconfigdata", "config-")) for part in name.parts):
            continue
        yield CodeFile(name.as_posix(), path.read_text(encoding="utf-8", errors="replace").strip() + "\n")


def helix_questions(file: Path = QUESTIONS_FILE) -> Iterator[Question]:
    """The questions about Helix, one item a phrasing."""
    for fact in read_toml(file)["fact"]:
        for question in fact["questions"]:
            yield Question("helix", fact["topic"], question, fact["answer"])


def out_of_scope_questions(file: Path = CHAT_FILE) -> Iterator[Question]:
    """Questions the pair cannot answer, each with the one answer that says so."""
    scope = read_toml(file)["out_of_scope"]
    for template in scope["templates"]:
        for filler in scope["fillers"] if "{}" in template else [""]:
            yield Question("helix", "out of scope", template.replace("{}", filler), scope["answer"])


def system_messages(file: Path = CHAT_FILE) -> tuple[str, ...]:
    """The system messages some training conversations begin with."""
    return tuple(read_toml(file)["system_messages"])


def stdlib_questions(files: Iterable[CodeFile], selection: Selection) -> Iterator[tuple[Question, bool]]:
    """Questions about the documented names of ``files``, and whether the target learns their answers."""
    for file in files:
        module = selection.known_name(file)
        if not module.startswith("_"):
            for subject, question, answer in docstrings.module_questions(module, file.text):
                yield Question("stdlib", subject, question, answer), selection.is_asked(file, subject)


def is_held_out(item: CodeFile | Question) -> bool:
    """Whether an item is kept for measuring: some files, some functions, and some phrasings of the rest."""
    if isinstance(item, CodeFile):
        return hash_share("file:" + item.name) < 0.04
    if item.kind == "stdlib" and hash_share("subject:" + item.subject) < 0.03:
        return True
    share = {"stdlib": 0.04, "helix": 0.10}.get(item.kind, 0.0)
    return hash_share("question:" + item.question) < share


def build_corpus() -> Corpus:
    """Reads the standard library and the data files, and separates what is held out."""
    selection = read_selection()
    sources = list(source_files(standard_library(), selection))
    about_library = list(stdlib_questions(sources, selection))
    asked = [question for question, is_asked in about_library if is_asked]
    questions = [*helix_questions(), *out_of_scope_questions(), *asked]
    files = [file for file in sources if selection.is_code(file)]
    return Corpus(
        code=tuple(file for file in files if not is_held_out(file)),
        questions=tuple(item for item in questions if not is_held_out(item)),
        held_out_code=tuple(file for file in files if is_held_out(file)),
        held_out_questions=tuple(item for item in questions if is_held_out(item)),
        unasked=tuple(question for question, is_asked in about_library if not is_asked),
    )
