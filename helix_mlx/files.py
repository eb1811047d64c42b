"""Atomic writing of files and folders."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def folder_beside(folder: Path, replace: bool = False) -> Iterator[Path]:
    """An empty folder beside another, which takes its name when the body has ended, and goes where that fails.

    Args:
        folder: the name it gets in the end.
        replace: whether a folder that has this name goes before.

    Raises:
        OSError: it cannot be made, or the name is taken.
    """
    beside = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        if replace:
            shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
