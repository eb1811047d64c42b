"""Atomic writing of small files."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def write_beside(path: Path, data: bytes, mode: int | None = None) -> None:
    """Write a file under another name in the same folder, then rename it.

    Args:
        path: the file; one that exists is replaced.
        data: all of its content.
        mode: its permissions; None gives it those of any new file.

    Raises:
        OSError: it cannot be written; what was there before still is, and nothing is left beside it.
    """
    beside = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        if mode is not None:
            os.chmod(beside, mode)
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise
