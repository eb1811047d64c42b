"""From a pair and prompts to a pair whose draft has learnt what the target says to them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from helix_mlx import __version__
from helix_mlx.config import EngineConfig
from helix_mlx.convert.checkpoint import quantization_of
from helix_mlx.convert.distill.batching import TeachingTexts
from helix_mlx.convert.distill.numpy_ops import fastest_ops
from helix_mlx.convert.distill.prompts import Prompts, read_prompts
from helix_mlx.convert.distill.student import Student
from helix_mlx.convert.distill.teacher import Opinion, ask_teacher
from helix_mlx.convert.distill.texts import Text, write_texts
from helix_mlx.convert.distill.training import Course, Schedule, Trainer
from helix_mlx.convert.file_lock import exclusively
from helix_mlx.engine.acceptance_counts import count_acceptance
from helix_mlx.engine.engine import Engine, load
from helix_mlx.errors import ModelError, PairError, SettingsError
from helix_mlx.files import write_beside
from helix_mlx.kernels.cpu.choice import choose_kernels
from helix_mlx.models.files import check_room
from helix_mlx.models.loader import fetch
from helix_mlx.models.manifest import NAME as MANIFEST
from helix_mlx.models.manifest import ConvertedModel, Manifest, hashed_files, read_manifest
from helix_mlx.models.pair import load_pair
from helix_mlx.models.pairs import NamedPair, named_pair
from helix_mlx.models.text.tokenizer import Tokenizer
from helix_mlx.models.text.vocabulary import compare
from helix_mlx.types import Notice, StepProgress

MEASURED_TEMPERATURES, MEASURED_DRAFTS = (0.0, 0.7), 4
ROW_TOKENS = 1024
"""The most of a text that a draft learns from."""


@dataclass(frozen=True)
class Wanted:
    """What to teach.

    Args:
        pair: a pair's name or folder.
        prompts: the file of prompts.
        out: the folder to make.
        how: "full", "lora" or "auto"; see `Student`.
        samples: texts of the target to each prompt.
        max_tokens: of a text.
        held_out: the share of the prompts that is measured on and not learnt from.
        schedule: how long and how fast.
    """

    pair: str
    prompts: Path
    out: Path
    how: str = "auto"
    samples: int = 3
    max_tokens: int = 128
    held_out: float = 0.15
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise SettingsError(f"held-out is {self.held_out:g}, but must be a share between 0 and 1")


def distill(wanted: Wanted, line: Notice, progress: StepProgress) -> dict[str, Any]:
    """Teach a pair's draft on its target's answers, and make a pair with the draft that foresees them best.

    An interruption keeps what has been done, beside `out`; the same call goes on from there.

    Args:
        wanted: what to teach.
        line: is told what has been reached.
        progress: is told what is under way, and how far it is.

    Returns:
        The report that is in the new pair's manifest, too.

    Raises:
        HelixError: the pair has no draft of its target's vocabulary, prompts are unreadable or too few, the folder
            exists, the disk is full; or nothing was gained.
    """
    with exclusively(wanted.out):
        prompts = read_prompts(wanted.prompts, wanted.held_out)
        pair = named_pair(wanted.pair)
        folders = _folders(pair)
        work = wanted.out.with_name(f".{wanted.out.name}.part")
        try:
            _begin(work, wanted, prompts, folders, line)
            report = _Distillation(wanted, prompts, pair, folders, work, line, progress).run()
        except OSError as error:
            raise ModelError(f"cannot write {work}: {error.strerror or error}; choose another --out") from error
        shutil.rmtree(work, ignore_errors=True)
    return report


def _folders(pair: NamedPair) -> dict[str, Path]:
    """Where target and draft lie; they are fetched where they are not here.

    Raises:
        PairError: there is no draft, or its ids mean something else.
    """
    if pair.draft == "none":
        raise PairError(f"{pair.name} has no draft to train; convert a pair with --draft first")
    folders = {"target": fetch(pair.target), "draft": fetch(pair.draft)}
    target, draft = (Tokenizer.load(folder, None) for folder in folders.values())
    if compare(target, draft).kind == "shared":
        raise PairError(
            f"the draft of {pair.name} does not have its target's vocabulary and cannot be trained; use another"
        )
    return folders


def _begin(work: Path, wanted: Wanted, prompts: Prompts, folders: dict[str, Path], line: Notice) -> None:
    """Make the folder of the work, or take one over that was begun with the same settings."""
    made_of: dict[str, Any] = {
        **{name: value for name, value in asdict(wanted).items() if name not in ("out", "prompts")},
        "prompts": asdict(prompts),
        "models": {
            role: [str(folder), max(file.stat().st_mtime_ns for file in folder.iterdir())]
            for role, folder in folders.items()
        },
        "helix": __version__,
    }
    note, text = work / "made_of.json", json.dumps(made_of)
    if note.is_file() and note.read_text(encoding="utf-8") == text:
        line(f"Resuming from {work}.")
        return
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    draft_bytes = sum(file.stat().st_size for file in folders["draft"].iterdir())
    check_room(work, 40 * draft_bytes, "teaching the draft")  # weights, best weights and Adam's moments in float32
    write_beside(note, text.encode())


@dataclass
class _Distillation:
    """The steps, each of which finds what an earlier call has done."""

    wanted: Wanted
    prompts: Prompts
    pair: NamedPair
    folders: dict[str, Path]
    work: Path
    line: Notice
    progress: StepProgress

    def run(self) -> dict[str, Any]:
        texts, before = self._write()
        opinions = self._ask(texts)
        trainer, best = self._teach(texts, opinions)
        course = trainer.course
        if not course.best_epoch:
            shutil.rmtree(self.work, ignore_errors=True)
            raise PairError(
                f"training did not improve the draft of {self.pair.name} on held-out prompts; "
                "give more prompts, or try another --rate"
            )
        made = self.work / "pair"
        shutil.rmtree(made, ignore_errors=True)
        trainer.student.save(best, made / "draft")
        _linked(self.folders["target"], made / "target")
        del trainer, best
        mx.clear_cache()
        after = self._measured(made / "draft", "measuring the new draft")
        report = self._report(course, before, after)
        self._finish(made, report)
        return report

    def _write(self) -> tuple[list[Text], list[dict[str, Any]]]:
        """The target's texts, taught ones first, and what held-out prompts say of the draft as it is."""
        before, file = self.work / "before.json", self.work / "texts.jsonl"
        with self._engine(self.folders["draft"]) as engine:
            asked = [each.tokens(engine.pair.tokenizer) for each in (*self.prompts.taught, *self.prompts.held_out)]
            texts = write_texts(
                engine, asked, self.wanted.samples, self.wanted.max_tokens, file,
                lambda done, total: self.progress("the target writes", done, total),
            )  # fmt: skip
        if not before.exists():
            kept = self._measured(self.folders["draft"], "measuring the draft as it is")
            write_beside(before, json.dumps(kept).encode())
        measured = json.loads(before.read_text(encoding="utf-8"))
        told = ", ".join(f"{each['acceptance']:.3f} at temperature {each['temperature']:g}" for each in measured)
        self.line(f"{len(texts)} answers generated; before training the target accepts {told}")
        return texts, measured

    def _engine(self, draft: Path) -> Engine:
        config = EngineConfig(calibrate=False)
        return load(target=str(self.folders["target"]), draft=str(draft), config=config, notice=self.line)

    def _measured(self, draft: Path, label: str) -> list[dict[str, Any]]:
        """Drafts kept on held-out prompts, by real speculation, of an engine that has read nothing before.

        What a prefix cache holds moves where cycles begin, and so, by a little, what is kept.
        """
        found = []
        with self._engine(draft) as engine:
            asked = [each.tokens(engine.pair.tokenizer) for each in self.prompts.held_out]
            for number, temperature in enumerate(MEASURED_TEMPERATURES):
                self.progress(label, number, len(MEASURED_TEMPERATURES))
                most = self.wanted.max_tokens
                kept = count_acceptance(engine, asked, "held out", temperature, "model", most, MEASURED_DRAFTS)
                found.append(kept.to_json())
        return found

    def _ask(self, texts: list[Text]) -> list[Opinion]:
        folder = self.folders["target"]
        configs = [_config(each) for each in self.folders.values()]
        vocab = min(int((config.get("text_config") or config)["vocab_size"]) for config in configs)

        def reader() -> Callable[[mx.array], mx.array]:
            pair = load_pair(target=str(folder), draft="none")
            model = pair.with_kernels(choose_kernels("auto", notice=self.line)).target.model

            def read(tokens: mx.array) -> mx.array:
                with fastest_ops():
                    return model(tokens)

            return read

        told = self.work / "opinions"
        return ask_teacher(
            reader, texts, vocab, told, lambda done, total: self.progress("the target reads", done, total)
        )

    def _teach(self, texts: list[Text], opinions: list[Opinion]) -> tuple[Trainer, Any]:
        count = len(self.prompts.taught) * self.wanted.samples
        taught = TeachingTexts(texts[:count], opinions[:count], ROW_TOKENS)
        held_out = TeachingTexts(texts[count:], opinions[count:], ROW_TOKENS)
        student = Student(self.folders["draft"], self.wanted.how, self.wanted.schedule.seed)
        trainer = Trainer(student, self.wanted.schedule, self.work)
        best = trainer.run(taught, held_out, self.line, lambda *so_far: self.progress("the draft learns", *so_far))
        return trainer, best

    def _report(self, course: Course, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "pair": self.wanted.pair,
            "prompts": {"taught": len(self.prompts.taught), "held_out": len(self.prompts.held_out)},
            "texts_a_prompt": self.wanted.samples,
            "how": self.wanted.how,
            "epochs": course.epoch,
            "best_epoch": course.best_epoch,
            "chances": course.chances,
            "draft_tokens": MEASURED_DRAFTS,
            "before": before,
            "after": after,
        }

    def _finish(self, made: Path, report: dict[str, Any]) -> None:
        """Hash, describe, and put the folder in its place."""
        files = hashed_files(made, lambda *so_far: self.progress("hashing", *so_far))
        known = self.folders["target"].parent
        earlier = read_manifest(known) if (known / MANIFEST).is_file() else None
        sizes = {role: sum(size for path, (size, _) in files.items() if path.startswith(role)) for role in self.folders}
        quantizations = {role: quantization_of(_config(folder)) for role, folder in self.folders.items()}
        target = ConvertedModel("target", self.pair.target, None, quantizations["target"], sizes["target"])
        draft_source = self.pair.draft
        if earlier is not None and earlier.draft is not None:
            target = earlier.target
            draft_source = earlier.draft.source
        draft = ConvertedModel("draft", f"{draft_source}, distilled", None, quantizations["draft"], sizes["draft"])
        vocabulary = compare(*(Tokenizer.load(made / role, None) for role in ("target", "draft"))).to_json()
        Manifest((target, draft), files, __version__, vocabulary, distillation=report).write(made)
        self.wanted.out.parent.mkdir(parents=True, exist_ok=True)
        os.rename(made, self.wanted.out)


def _linked(source: Path, folder: Path) -> None:
    """A folder with the same files, which take no room where the disk allows it."""
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if not file.is_file():
            continue
        try:
            os.link(file.resolve(), folder / file.name)
        except OSError:
            shutil.copyfile(file, folder / file.name)


def _config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found
