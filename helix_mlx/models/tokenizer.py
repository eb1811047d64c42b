"""Text to tokens and back, on mlx-lm's tokenizers and streaming detokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from mlx_lm.tokenizer_utils import StreamingDetokenizer, TokenizerWrapper
from mlx_lm.utils import load_tokenizer

from helix_mlx.errors import ModelError, PromptError, SettingsError
from helix_mlx.models.template import ChatTemplate
from helix_mlx.thinking import ThinkMarks

Message = Mapping[str, str]
"""One message of a conversation: {"role": "user" | "assistant" | "system", "content": text}. An answer's reasoning
stands in its content, between its marks, or apart as "reasoning_content"."""


_MARK_TOKENS = 16
"""Of a prompt, the last tokens that may hold the mark of reasoning that begins, and the space behind it."""


class Tokenizer:
    """The tokenizer of a pair.

    Args:
        wrapper: mlx-lm's tokenizer.
    """

    def __init__(self, wrapper: TokenizerWrapper) -> None:
        self._wrapper = wrapper
        self.eos_ids: frozenset[int] = frozenset(wrapper.eos_token_ids)
        self.template = ChatTemplate(wrapper)

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
        try:
            return cls(load_tokenizer(folder, {"trust_remote_code": trust_remote_code}, eos_token_ids=eos_ids))
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ModelError(
                f"cannot read the tokenizer in {folder}: {one_line(error)}; fetch the model again, or name another"
            ) from error

    @property
    def vocab(self) -> dict[str, int]:
        """Every token with its id."""
        vocab: dict[str, int] = self._wrapper.get_vocab()
        return vocab

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

    def encode_chat(self, messages: Sequence[Message], variables: Mapping[str, Any] | None = None) -> list[int]:
        """Token ids of a conversation, ready for the model's answer; as `render_chat`."""
        return self.encode_rendered(self.render_chat(messages, variables))

    def render_chat(self, messages: Sequence[Message], variables: Mapping[str, Any] | None = None) -> str:
        """A conversation as the model was taught to read it, ready for its answer.

        Args:
            messages: the conversation.
            variables: further variables of the template; see `ChatTemplate.chosen`.

        Raises:
            PromptError: the model has no chat template, or its template refuses the messages.
        """
        if not self.has_chat_template:
            raise PromptError("this model has no chat template; use generate with --raw, or another model")
        plain = [_message(message) for message in messages]
        if not plain:
            raise PromptError("there are no messages; give at least one of the user's")
        try:
            return self.template.render(plain, variables or {})
        except TemplateError as error:
            raise PromptError(f"the model's chat template refuses these messages: {one_line(error)}") from error

    def encode_rendered(self, text: str) -> list[int]:
        """Token ids of a rendered conversation, or a piece of one: the template has written every special token."""
        _check_text(text)
        return list(self._wrapper.encode(text, add_special_tokens=False))

    def marks_behind(self, tokens: Sequence[int]) -> ThinkMarks | None:
        """The marks of the reasoning in an answer to these tokens; None where the model has none."""
        marks = self.template.marks
        return None if marks is None else marks.behind(self.decode(tokens[-_MARK_TOKENS:]))

    def stop_ids(self, tokens: Sequence[int | str]) -> frozenset[int]:
        """The ids of tokens, each given by its id or its text.

        Raises:
            SettingsError: a text is not that of one token.
        """
        return frozenset(token if isinstance(token, int) else self._one_id(token) for token in tokens)

    def _one_id(self, text: str) -> int:
        ids = self.encode_rendered(text)
        if len(ids) == 1 and self.decode(ids) == text:
            return ids[0]
        known = self.vocab.get(text)
        if known is None:
            shown = (
                f"it comes to {len(ids)}: {', '.join(map(str, ids[:8]))}" if len(ids) > 1 else "it knows no such one"
            )
            raise SettingsError(f"stop-token {text!r} is not one token of this model ({shown}); use --stop for a text")
        return known

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


def one_line(error: BaseException) -> str:
    """An error's first line, for messages that have to fit in one."""
    text: Any = str(error).strip() or type(error).__name__
    return str(text.splitlines()[0].rstrip(".:"))
