"""Which files of a model's folder are used. Does not import MLX, so that listings are fast."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from helix_mlx.errors import ModelError

WEIGHTS = "model*.safetensors"
WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MTP_WEIGHTS = "mtp.safetensors"
"""Beside a converted target: its multi-token-prediction head."""
TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "bpe.codes", "tekken.json",
    "*.model", "*.spm", "*.tiktoken",
)  # fmt: skip
"""What a tokenizer may consist of, of whichever kind."""
OTHER_FILES = ("chat_template*", "additional_chat_templates/*", "generation_config.json")
"""What else belongs to a model beside its weights and its config.json."""
FETCHED = ("*.json", "*.jsonl", "*.jinja", "*.txt", WEIGHTS, MTP_WEIGHTS, *TOKENIZER_FILES)
"""The files to download from a repository; as in the hub's patterns, `*` also matches slashes."""
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json", "*.model", "*.spm", "*.tiktoken")
_SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
_SHOWN = 3


@dataclass(frozen=True)
class WeightFiles:
    """The weights in a folder.

    Args:
        files: those to read, in order; none where there are none.
        notes: lines for the user: what is left alone, and why.
    """

    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.files)


def weight_files(folder: Path) -> WeightFiles:
    """The weights of a model: what its index names; without one, the whole file, or else a full set of shards.

    An index that is older than the whole file beside it, and names only files that are gone, does not count.

    Raises:
        ModelError: the index is damaged, or a file that belongs to the weights is missing; the message names it.
    """
    try:
        there = sorted(name for name in os.listdir(folder) if fnmatchcase(name, WEIGHTS) and (folder / name).is_file())
    except OSError as error:
        raise ModelError(f"cannot read {folder}: {error.strerror or error}; choose another folder") from error
    named = _named(folder)
    if named is not None:
        missing = [name for name in named if not (folder / name).is_file()]
        if len(missing) == len(named) and WHOLE in there:
            note = f"{folder / INDEX} names {_listed(missing)}, which is not there; {WHOLE} is read instead"
            return WeightFiles((folder / WHOLE,), (note, *_strays(folder, there, [WHOLE], WHOLE)))
        if missing:
            raise ModelError(f"{folder} is missing weights: {_listed(missing)}; download the model again")
        return _read(folder, there, named, INDEX)
    if WHOLE in there:
        return _read(folder, there, [WHOLE], WHOLE)
    shards = {name: found for name in there if (found := _SHARD.fullmatch(name))}
    if shards:
        _check_set(folder, shards)
        return _read(folder, there, list(shards), "the others")
    return _read(folder, there, there, "")


def holds_model(folder: Path) -> bool:
    """Whether a folder has everything that loading needs; partial downloads do not count."""
    if not (folder / "config.json").is_file():
        return False
    names = os.listdir(folder)
    if not any(fnmatchcase(name, each) and (folder / name).is_file() for each in _VOCABULARIES for name in names):
        return False
    try:
        return bool(weight_files(folder).files)
    except ModelError:
        return False


def copy_others(source: Path, destination: Path, *more: str) -> None:
    """Copy what belongs to a model beside its weights and its config.json, byte for byte.

    Args:
        source: a model's folder.
        destination: a folder.
        more: patterns of other files to take along.
    """
    for pattern in (*TOKENIZER_FILES, *OTHER_FILES, *more):
        for file in source.glob(pattern):
            if file.is_file():
                copy = destination / file.relative_to(source)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, copy)


def check_room(folder: Path, size: int, what: str) -> None:
    """See that the disk of a folder, which need not exist yet, has room.

    Raises:
        ModelError: it has not; the message has the numbers.
    """
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
    free = shutil.disk_usage(there).free
    if size > free:
        raise ModelError(f"{what} needs {size / 1e9:.2f} GB, but the disk of {folder} has {free / 1e9:.2f} GB free")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """While a folder is written.

    Raises:
        ModelError: for any OSError of the body.
    """
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"cannot write {folder}: {error.strerror or error}; free some space, or see to its permissions"
        ) from error


def _named(folder: Path) -> list[str] | None:
    """The files that a folder's index names; None without an index."""
    index = folder / INDEX
    try:
        if not index.is_file():
            return None
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not names or not all(_is_inside(name) for name in names):
            raise ValueError(INDEX)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index} is damaged: it lists no weight files; download the model again") from error
    return names


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix == ".safetensors" and not path.is_absolute() and ".." not in path.parts


def _check_set(folder: Path, shards: dict[str, re.Match[str]]) -> None:
    """Check that shards without an index all belong to one set.

    Raises:
        ModelError: they are of several, or one is missing.
    """
    counts = {int(found[2]) for found in shards.values()}
    if len(counts) > 1:
        raise ModelError(
            f"{folder} has no index, and files of several models ({_listed(list(shards))}); download the model again"
        )
    numbers, (first, *_) = {int(found[1]) for found in shards.values()}, shards.values()
    for number in range(1, min(counts) + 1):
        if number not in numbers:
            name = f"model-{number:0{len(first[1])}d}-of-{first[2]}.safetensors"
            raise ModelError(f"{folder} is missing weights: {name}; download the model again")


def _read(folder: Path, there: list[str], names: list[str], by: str) -> WeightFiles:
    return WeightFiles(tuple(folder / name for name in names), _strays(folder, there, names, by))


def _strays(folder: Path, there: list[str], names: list[str], by: str) -> tuple[str, ...]:
    strays = [name for name in there if name not in names]
    return (f"{folder}: {_listed(strays)} is left alone, as it does not go with {by}",) if strays else ()


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
