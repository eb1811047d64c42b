"""The prompts that a draft is taught on: read from a file, and some of them held out for the measuring."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from helix_mlx.errors import PromptError
from helix_mlx.models.text.tokenizer import Tokenizer
from helix_mlx.types import Message

FEWEST = 8
"""Fewer prompts teach nothing that others would have a use for."""


@dataclass(frozen=True)
class Prompt:
    """What is asked: a conversation for the chat template, or a text that is continued as it stands."""

    messages: tuple[Message, ...] = ()
    text: str = ""

    def tokens(self, tokenizer: Tokenizer) -> list[int]:
        """Its ids. Without a chat template the last message is a text like others.

        Raises:
            PromptError: it has none.
        """
        if self.messages and tokenizer.has_chat_template:
            return tokenizer.encode_chat(self.messages)
        return tokenizer.encode(self.text or str(self.messages[-1]["content"]))


@dataclass(frozen=True)
class Prompts:
    """The prompts of a file: `taught` are learnt from, `held_out` are never learnt from."""

    taught: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]


def read_prompts(file: Path, held_out: float) -> Prompts:
    """The prompts of a file, each once, and about a share of them held out: always the same ones.

    A `.jsonl` file has an object a line: `{"prompt": "..."}` or `{"messages": [...]}` for the chat template,
    `{"text": "..."}` for what is continued as it stands. Any other file has a prompt a line.

    Raises:
        PromptError: the file cannot be read, a line is none of these, or there are too few.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PromptError(f"cannot read the prompts in {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise PromptError(f"{file} is not valid UTF-8; save it as UTF-8") from error
    is_json = file.suffix == ".jsonl"
    read = {
        line.strip(): _parsed(line, f"{file}, line {number}") if is_json else _question(line.strip())
        for number, line in enumerate(lines, 1)
        if line.strip()
    }
    if len(read) < FEWEST:
        raise PromptError(
            f"{file} has {len(read)} different prompts, but at least {FEWEST} are needed; a few hundred are better"
        )
    # By their hashes, so that a file that has grown still holds out the same ones.
    ordered = sorted(read, key=_place)
    count = min(max(2, sum(_place(line) < held_out for line in ordered)), len(ordered) - 2)
    return Prompts(tuple(read[line] for line in ordered[count:]), tuple(read[line] for line in ordered[:count]))


def _place(line: str) -> float:
    """A number in [0, 1) that depends on the line alone."""
    return crc32(line.encode()) / 2**32


def _question(text: str) -> Prompt:
    return Prompt(({"role": "user", "content": text},))


def _parsed(line: str, where: str) -> Prompt:
    expected = 'an object with "prompt", "text" or "messages"'
    try:
        data: Any = json.loads(line)
    except ValueError as error:
        raise PromptError(f"{where} is not JSON; it must be {expected}") from error
    if isinstance(data, dict):
        if isinstance(data.get("prompt"), str) and data["prompt"]:
            return _question(data["prompt"])
        if isinstance(data.get("text"), str) and data["text"]:
            return Prompt(text=data["text"])
        if _is_conversation(data.get("messages")):
            return Prompt(tuple(_until_answer(data["messages"])))
    raise PromptError(f"{where} is not {expected}")


def _is_conversation(messages: Any) -> bool:
    return (
        isinstance(messages, list)
        and any(isinstance(each, dict) and each.get("role") == "user" for each in messages)
        and all(
            isinstance(each, dict) and isinstance(each.get("role"), str) and isinstance(each.get("content"), str)
            for each in messages
        )
    )


def _until_answer(messages: Sequence[Message]) -> Sequence[Message]:
    """Up to the last question: what others answered to it is not what the target says."""
    last = max(index for index, each in enumerate(messages) if each["role"] == "user")
    return [{"role": str(each["role"]), "content": str(each["content"])} for each in messages[: last + 1]]
