"""`helix.json`, the manifest of a converted pair. Does not import MLX, so that listings are fast."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from helix_mlx.errors import PairError
from helix_mlx.files import write_beside
from helix_mlx.models.files import MTP_WEIGHTS
from helix_mlx.types import Progress

FORMAT = 1
"""Of the file. A folder of a later one needs a later Helix."""
NAME = "helix.json"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class ConvertedModel:
    """One model of a pair.

    Args:
        role: "target" or "draft", which is also its folder.
        source: the folder or the repository it came from.
        revision: the repository's commit; None for a folder.
        quantization: bits, group size and mode, as its config.json has them; None where weights are not quantised.
        bytes: of its files.
    """

    role: str
    source: str
    revision: str | None
    quantization: dict[str, Any] | None
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """A pair on disk.

    Args:
        models: the target, and the draft where there is one.
        files: bytes and SHA-256 of every file, by its path in the folder, with forward slashes.
        vocabulary: how the two vocabularies fit; None without a draft.
        acceptance: how many drafts the target kept, where that was measured.
        helix: the version that wrote it.
        distillation: what the draft was taught on and what it gained, where it was.
    """

    models: tuple[ConvertedModel, ...]
    files: dict[str, tuple[int, str]]
    helix: str
    vocabulary: dict[str, Any] | None = None
    acceptance: dict[str, Any] | None = None
    distillation: dict[str, Any] | None = None

    @property
    def draft(self) -> ConvertedModel | None:
        """The draft, where there is one."""
        return next((model for model in self.models if model.role == "draft"), None)

    @property
    def target(self) -> ConvertedModel:
        """The target."""
        return next(model for model in self.models if model.role == "target")

    @property
    def holds_head(self) -> bool:
        """Whether a multi-token-prediction head lies beside the target's weights."""
        return f"target/{MTP_WEIGHTS}" in self.files

    def write(self, folder: Path) -> None:
        """Write it into a folder, as its last file."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False)
        write_beside(folder / NAME, f"{text}\n".encode())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        PairError: there is none, it is damaged, or a later Helix wrote it.
    """
    try:
        data = json.loads((folder / NAME).read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise PairError(
                f"{folder} was written by Helix {data.get('helix')}; update Helix, or convert the pair again"
            )
        models = tuple(_model(**model) for model in data["models"])
        files = {_inside(path): (int(size), str(digest)) for path, (size, digest) in data["files"].items()}
        if [model.role for model in models] not in (["target"], ["target", "draft"]):
            raise ValueError("no target")
        told = data["vocabulary"], data["acceptance"], data.get("distillation")
        if not all(each is None or isinstance(each, dict) for each in told):
            raise TypeError("no notes")
        return Manifest(models, files, str(data["helix"]), *told)
    except FileNotFoundError:
        raise PairError(
            f"{folder} is not a pair: it has no {NAME}; give a folder made by `helix-mlx convert`"
        ) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise PairError(f"{folder / NAME} is damaged; convert the pair again") from error


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check that every file exists and has its size; contents are not read.

    Raises:
        PairError: one is missing or of another size.
    """
    for path, (size, _) in manifest.files.items():
        try:
            found = (folder / path).stat().st_size
        except OSError:
            raise PairError(f"{folder / path} is missing; convert the pair again") from None
        if found != size:
            raise PairError(f"{folder / path} has {found:,} bytes instead of {size:,}; convert the pair again")


def verify_files(folder: Path, manifest: Manifest, progress: Progress) -> None:
    """Read every file and see that it is what was written; `progress` is told bytes.

    Raises:
        PairError: one is not; the message names it.
    """
    check_files(folder, manifest)
    total, done = sum(size for size, _ in manifest.files.values()), 0
    for path, (size, digest) in manifest.files.items():
        if sha256(folder / path) != digest:
            raise PairError(f"{folder / path} is damaged: its hash differs; convert the pair again")
        done += size
        progress(done, total)


def hashed_files(folder: Path, progress: Progress) -> dict[str, tuple[int, str]]:
    """Bytes and SHA-256 of every file in a folder and below; `progress` is told bytes."""
    paths = sorted(_files(folder))
    total, done = sum(path.stat().st_size for path in paths), 0
    found = {}
    for path in paths:
        size = path.stat().st_size
        found[path.relative_to(folder).as_posix()] = (size, sha256(path))
        done += size
        progress(done, total)
    return found


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as data:
        while block := data.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    yield from (path for path in folder.rglob("*") if path.is_file() and path.name != NAME)


def _model(
    role: str, source: str, revision: str | None, quantization: dict[str, Any] | None, bytes: int
) -> ConvertedModel:
    """A model as a manifest tells it.

    Raises:
        TypeError: a value is of another kind.
    """
    whole = isinstance(source, str) and isinstance(bytes, int) and isinstance(revision, str | None)
    if not whole or not isinstance(quantization, dict | None):
        raise TypeError(role)
    return ConvertedModel(role, source, revision, quantization, bytes)


def _inside(path: str) -> str:
    """A path that stays in the folder.

    Raises:
        ValueError: it does not.
    """
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(path)
    return path
