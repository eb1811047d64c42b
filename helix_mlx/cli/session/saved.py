"""A conversation and its settings as a JSON file, so that a chat can be resumed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from helix_mlx import __version__
from helix_mlx.cli.console.text import checked_text
from helix_mlx.errors import HelixError, SettingsError
from helix_mlx.request import SamplingParams, check_draft_tokens
from helix_mlx.types import Message

_ROLES = ("system", "user", "assistant")
_WORDS = ("role", "content", "reasoning_content")


@dataclass(frozen=True)
class SavedChat:
    """A conversation and its settings.

    Attributes:
        pair: the name of the pair it was with.
        messages: all of them, a system message first where there is one.
        params: the sampling settings.
        draft_tokens: K; None leaves it to the engine.
        thinking: whether the model reasons; None leaves it to its chat template.
        template_args: further variables of the chat template.
    """

    pair: str
    messages: Sequence[Message]
    params: SamplingParams
    draft_tokens: int | None
    thinking: bool | None
    template_args: dict[str, Any]

    def to_text(self) -> str:
        """The file's text."""
        settings = {
            **asdict(self.params),
            "draft_tokens": self.draft_tokens,
            "thinking": self.thinking,
            "template_args": self.template_args,
        }
        whole = {"helix": __version__, "pair": self.pair, "messages": list(self.messages), "settings": settings}
        return json.dumps(whole, ensure_ascii=False, indent=2) + "\n"


def is_saved_chat(path: Path) -> bool:
    """Whether a file name is that of a saved chat (.json)."""
    return path.suffix.lower() == ".json"


def read_chat(path: Path) -> SavedChat:
    """Read what `/save FILE.json` wrote.

    Raises:
        SettingsError: the file cannot be read, or is something else.
    """
    try:
        return _parsed(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror or error}; give another file") from None
    except HelixError as error:
        raise SettingsError(f"{path} is not a saved chat: {error}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise SettingsError(f"{path} is not a saved chat; give a file written by /save FILE.json") from None


def _parsed(data: Any) -> SavedChat:
    """Raises LookupError, TypeError, AttributeError or SettingsError if the data is not in the expected form."""
    pair, messages, settings = data["pair"], data["messages"], dict(data["settings"])
    if not isinstance(pair, str) or not isinstance(messages, list) or not messages:
        raise TypeError(pair)
    draft_tokens, thinking = settings.pop("draft_tokens"), settings.pop("thinking")
    template_args = settings.pop("template_args")
    if not (thinking is None or isinstance(thinking, bool)) or not isinstance(template_args, dict):
        raise TypeError(thinking)
    known = {field.name for field in fields(SamplingParams)}
    params = SamplingParams(**{word: value for word, value in settings.items() if word in known})
    read = [_message(each, first=at == 0) for at, each in enumerate(messages)]
    return SavedChat(checked_text(pair), read, params, check_draft_tokens(draft_tokens), thinking, template_args)


def _message(data: Any, first: bool) -> Message:
    message = {word: checked_text(data[word]) for word in _WORDS if word != "reasoning_content" or word in data}
    if message["role"] not in _ROLES or (message["role"] == "system" and not first):
        raise LookupError(message["role"])
    return message
