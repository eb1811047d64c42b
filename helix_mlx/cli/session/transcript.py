"""A conversation as a file: Markdown to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from helix_mlx.errors import SettingsError
from helix_mlx.files import write_beside
from helix_mlx.types import Message

_TITLES = {"system": "System", "user": "You"}


def save_transcript(path: Path, text: str, overwrite: bool = False) -> None:
    """Write a conversation to a file, completely or not at all.

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
        raise SettingsError(f"{path} is a folder; give a file name")
    if path.exists() and not overwrite:
        raise SettingsError(f"{path} already exists; choose another name, or overwrite it with /save! {path}")
    try:
        write_beside(path, text.encode("utf-8", errors="replace"))
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror or error}; choose another place") from error


def render_markdown(name: str, messages: Sequence[Message]) -> str:
    """A conversation in Markdown, with a heading per message."""
    parts = [f"## {_TITLES.get(message['role'], name)}\n\n{_markdown(message)}\n" for message in messages]
    return "\n".join([f"# A chat with {name}\n", *parts])


def _markdown(message: Message) -> str:
    """A message's text, after its reasoning in a collapsed section."""
    content, reasoning = message["content"].strip(), message.get("reasoning_content", "").strip()
    if not reasoning:
        return content
    return f"<details><summary>Reasoning</summary>\n\n{reasoning}\n\n</details>\n\n{content}".rstrip()
