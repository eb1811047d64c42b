"""Atomic writing of files and folders, and where the user's caches are."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import sys
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


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let no other process into the body for a folder, which need not exist; one that is in it is waited for.

    Raises:
        OSError: nothing can be written beside the folder.
    """
    lock = folder.with_name(f".{folder.name}.lock")
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(file), lock.stat()):
                break
        except FileNotFoundError:
            pass
        os.close(file)  # whoever held it before has removed it meanwhile
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(file)


def cache_folder(what: str) -> Path:
    """The user's cache folder; if there is no home folder, a path that cannot exist."""
    try:
        home = Path.home()
    except RuntimeError:
        home = Path(os.devnull)  # never a shared folder: anyone who can write there could make us load their code
    caches = home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache"
    return caches / "helix-mlx" / what
