"""A folder is made by one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helix_mlx.errors import ModelError, SettingsError


@contextmanager
def exclusively(out: Path) -> Iterator[None]:
    """A new folder, which nobody else makes meanwhile. A process that dies lets go of it.

    Raises:
        SettingsError: the folder exists, or another process is at it.
        ModelError: nothing can be written there.
    """
    lock = out.with_name(f".{out.name}.lock")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        held = _taken(lock)
    except OSError as error:
        raise ModelError(f"cannot write {out}: {error.strerror or error}; choose another --out") from error
    if held is None:
        raise SettingsError(f"another process is writing {out}; wait for it to finish, or choose another --out")
    try:
        # Asked here, not before: who held the lock until now may just have put the folder in its place.
        if out.exists():
            raise SettingsError(f"{out} already exists; remove it first, or choose another --out")
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(held)


def _taken(lock: Path) -> int | None:
    """The lock, opened and held; None where another process holds it."""
    while True:
        file = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        if _lies_at(file, lock):
            return file
        # Whoever held it before has removed the file between the opening and the locking.
        os.close(file)


def _lies_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
