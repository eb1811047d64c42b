"""A conversation as a file: Markdown to read, and how any is written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from helix_mlx.errors import SettingsError

_TITLES = {"system": "System", "user": "You"}


def save_transcript(path: Path, text: str, overwrite: bool = False) -> None:
    """Write a conversation beside its file and rename it, so that no half of one is ever left.

    Args:
        path: the file.
        text: the conversation, empty where there is none.
        overwrite: whether a file that exists is replaced.

    Raises:
        SettingsError: there is nothing to save, the file exists, or it cannot be written.
    """
    if not text:
        raise SettingsError("there is nothing to save yet")
    if path.is_dir():
        raise SettingsError(f"{path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise SettingsError(f"{path} exists; choose another name, or replace it with /save! {path}")
    try:
        write_beside(path, text)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror or error}; choose another place") from error


def render_markdown(name: str, messages: Sequence[dict[str, str]]) -> str:
    """A conversation in Markdown: a heading a message."""
    parts = [f"## {_TITLES.get(message['role'], name)}\n\n{_markdown(message)}\n" for message in messages]
    return "\n".join([f"# A chat with {name}\n", *parts])


def _markdown(message: Mapping[str, str]) -> str:
    """A message's text, its reasoning folded away before it."""
    content, reasoning = message["content"].strip(), message.get("reasoning_content", "").strip()
    if not reasoning:
        return content
    return f"<details><summary>Reasoning</summary>\n\n{reasoning}\n\n</details>\n\n{content}".rstrip()


def write_beside(path: Path, text: str, mode: int | None = None) -> None:
    """Write a file beside its place and rename it when it is whole.

    Args:
        path: the file.
        text: what it will hold.
        mode: its permissions; None leaves them as any new file's.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with open(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        os.chmod(beside, _new_file_mode() if mode is None else mode)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def _new_file_mode() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
