"""A GGUF file, or all parts of a split one: its metadata and its tensors, by the reader of the `gguf` package."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from helix_mlx.errors import ModelError
from helix_mlx.models.third_party import guarded, one_line

MAGIC = b"GGUF"
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_Kind = TypeVar("_Kind")


@dataclass(frozen=True)
class GgufFile:
    """What is in a GGUF file.

    Args:
        path: of the file, or of its first part.
        fields: the metadata, as the reader has it.
        tensors: by name, as the reader has them; their data stays on disk until it is used.
    """

    path: Path
    fields: Mapping[str, Any]
    tensors: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """The name of the model's architecture; it begins the names of its settings."""
        return self.value("general.architecture", str)

    def setting(self, name: str, kind: type[_Kind], default: _Kind | None = None) -> _Kind:
        """A setting of the model's architecture, such as `block_count`; see `value`."""
        return self.value(f"{self.architecture}.{name}", kind, default)

    def value(self, key: str, kind: type[_Kind], default: _Kind | None = None) -> _Kind:
        """A value of the metadata.

        Args:
            key: its name.
            kind: its type; a float may be written as a whole number.
            default: what it is where it is not given.

        Raises:
            ModelError: it is of another type, or is not given and has no default.
        """
        found = self.optional(key, kind)
        if found is not None:
            return found
        if default is None:
            raise ModelError(f"{self.path} has no {key}; download another version of the model")
        return default

    def optional(self, key: str, kind: type[_Kind]) -> _Kind | None:
        """As `value`; None where it is not given."""
        field = self.fields.get(key)
        if field is None:
            return None
        with guarded(f"cannot read {key} of {self.path}", "download the model again"):
            found: Any = field.contents()
        if kind is float and type(found) is int:
            found = float(found)
        if type(found) is not kind:
            raise ModelError(
                f"in {self.path}, {key} is of type {type(found).__name__} instead of {kind.__name__}, which Helix does "
                "not support; choose another model"
            )
        return found


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF file does."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def gguf_parts(path: Path) -> tuple[Path, ...]:
    """All parts of a model, of which one is named; the file itself where its name is none of a part.

    Raises:
        ModelError: a part is missing, or is no GGUF file.
    """
    named = _PART.fullmatch(path.name)
    parts = [path]
    if named is not None:
        stem, count = named["stem"], int(named["count"])
        parts = [path.with_name(f"{stem}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]
    for part in parts:
        if not part.is_file():
            raise ModelError(f"there is no file {part}; check the name, or download it")
        if not is_gguf(part):
            raise ModelError(f"{part} is not a GGUF file; download it again, or give a folder with an MLX model")
    return tuple(parts)


def read_gguf(parts: Sequence[Path]) -> GgufFile:
    """Read the metadata of a model and where its tensors are.

    Args:
        parts: all of them, from `gguf_parts`.

    Raises:
        ModelError: the `gguf` package is missing, or a file is cut off, damaged or of an unknown version.
    """
    readers = [_read(part) for part in parts]
    first, *others = readers
    file = GgufFile(parts[0], first.fields, {tensor.name: tensor for reader in readers for tensor in reader.tensors})
    count = int(file.value("split.count", int, 0))
    if count > 1 and count != len(parts):
        raise ModelError(
            f"{parts[0]} is one of {count} parts, and the others cannot be found by its name; "
            f"give all parts the names NAME-00001-of-{count:05d}.gguf and so on, or download them again"
        )
    total = file.optional("split.tensors.count", int)
    if others and total is not None and total != len(file.tensors):
        raise ModelError(f"the parts of {parts[0]} do not belong together; download them again")
    return file


def _read(path: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ModelError(
            f"reading {path.name} needs the package gguf ({one_line(error)}); run: pip install 'helix-mlx[gguf]'"
        ) from error

    class Reader(GGUFReader):
        """The package's reader on a plain array: slices of a mapped one cost it twice the time."""

        @property
        def data(self) -> Any:
            """The bytes of the file, which stay on disk."""
            return self._bytes

        @data.setter
        def data(self, mapped: Any) -> None:
            self._bytes = mapped.view(np.ndarray)

    with guarded(f"cannot read {path}, which may be cut off", "download it again"):
        return Reader(path)
