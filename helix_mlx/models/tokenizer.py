"""Text to tokens and back, on mlx-lm's tokenizers and streaming detokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import StreamingDetokenizer, TokenizerWrapper
from mlx_lm.utils import load_tokenizer

from helix_mlx.errors import PromptError
from helix_mlx.models.third_party import guarded, hush

Message = Mapping[str, str]
"""One message of a conversation: {"role": "user" | "assistant" | "system", "content": text}."""


class Tokenizer:
    """The tokenizer of a pair.

    Args:
        wrapper: mlx-lm's tokenizer.
    """

    def __init__(self, wrapper: TokenizerWrapper) -> None:
        self._wrapper = wrapper
        self.eos_ids: frozenset[int] = frozenset(wrapper.eos_token_ids)

    @classmethod
    def load(cls, folder: Path, eos_ids: int | list[int] | None, *, trust_remote_code: bool = False) -> Tokenizer:
        """The tokenizer in a model's folder.

        Args:
            folder: where the model lies.
            eos_ids: the ids that end an answer, from the model's configuration.
            trust_remote_code: allow a tokenizer that brings Python code of its own.

        Raises:
            ModelError: the folder holds no tokenizer that can be read.
        """
        hush()
        ends = [eos_ids] if isinstance(eos_ids, int) else eos_ids
        with guarded(f"cannot read the tokenizer in {folder}", "fetch the model again, or name another"):
            return cls(load_tokenizer(folder, {"trust_remote_code": trust_remote_code}, eos_token_ids=ends))

    @property
    def vocab(self) -> dict[str, int]:
        """Every token with its id."""
        vocab: dict[str, int] = self._wrapper.get_vocab()
        return vocab

    @property
    def added_tokens(self) -> dict[int, bool]:
        """The ids of tokens that were added to the vocabulary proper, written as they are; True for control tokens."""
        decoder: Mapping[int, Any] = getattr(self._wrapper, "added_tokens_decoder", {})
        added = {index: bool(token.special) for index, token in decoder.items()}
        return added | dict.fromkeys(self._wrapper.all_special_ids, True)

    @property
    def chat_template(self) -> str | None:
        """How a conversation is written, in Jinja; None where the model does not say."""
        template = self._wrapper.chat_template
        return None if template is None else str(template)

    @property
    def has_chat_template(self) -> bool:
        """Whether the model says how to write a conversation."""
        return bool(self._wrapper.has_chat_template)

    def encode(self, text: str) -> list[int]:
        """Token ids of a raw text, with the model's own start token unless the text begins with it."""
        _check_text(text)
        bos = self._wrapper.bos_token
        special = bos is None or not text.startswith(bos)
        return list(self._wrapper.encode(text, add_special_tokens=special))

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, ready for the model's answer.

        Raises:
            PromptError: the model has no chat template, or its template refuses the messages.
        """
        return self.encode_rendered(self.render_chat(messages))

    def render_chat(self, messages: Sequence[Message]) -> str:
        """A conversation as the model was taught to read it, ready for its answer.

        Raises:
            PromptError: the model has no chat template, or its template refuses the messages.
        """
        if not self.has_chat_template:
            raise PromptError("this model has no chat template; use generate with --raw, or another model")
        plain = [_message(message) for message in messages]
        if not plain:
            raise PromptError("there are no messages; give at least one of the user's")
        with guarded("the model's chat template refuses these messages", "change them, or use --raw", PromptError):
            return str(self._wrapper.apply_chat_template(plain, add_generation_prompt=True, tokenize=False))

    def encode_rendered(self, text: str) -> list[int]:
        """Token ids of a rendered conversation, or a piece of one: the template has written every special token."""
        _check_text(text)
        return list(self._wrapper.encode(text, add_special_tokens=False))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens."""
        return str(self._wrapper.decode(list(tokens)))

    def detokenizer(self) -> StreamingDetokenizer:
        """A new streaming detokenizer, which holds back unfinished characters."""
        return self._wrapper.detokenizer


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"the text holds half a character at {error.start}; give text that UTF-8 can write") from None


def _message(message: Message) -> dict[str, str]:
    whole = isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))
    if not whole:
        raise PromptError(f"a message is {{'role': ..., 'content': ...}} with two texts, not {message!r}")
    return dict(message)
