"""Tokenisation, based on the tokenizers of transformers and mlx-lm."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import _get_classes, load_config
from tokenizers import decoders
from transformers import AutoTokenizer

from helix_mlx.errors import PromptError, SettingsError
from helix_mlx.models.text.template import ChatTemplate
from helix_mlx.models.third_party import guarded, hush
from helix_mlx.thinking import ThinkMarks
from helix_mlx.types import Message

REPLACEMENT = "\ufffd"
"""What bytes decode to that are no character."""
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
_CONTINUATIONS = (("Ģ", "Ĳ", "ł"), ("<0x80>", "<0x90>", "<0xA0>"))
"""The bytes 80, 90 and A0, by byte-level marks and as byte tokens: one of them goes on from any half character."""
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
        hush()
        with guarded(f"cannot read the tokenizer in {folder}", "download the model again, or choose another"):
            return cls(_load(folder, eos_ids, trust_remote_code))

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
        """Token ids of a raw text, with the model's own start token unless the text begins with it.

        An end token that the tokenizer would append is left out: the text is there to be gone on from.
        """
        _check_text(text)
        bos = self._wrapper.bos_token
        begun = bos is not None and text.startswith(bos)
        return ([] if begun else list(self._start)) + list(self._wrapper.encode(text, add_special_tokens=False))

    @cached_property
    def _start(self) -> tuple[int, ...]:
        """The tokens that stand before every text."""
        for sample in ("a", "0", ".", " "):
            bare = list(self._wrapper.encode(sample, add_special_tokens=False))
            whole = list(self._wrapper.encode(sample))
            for at in range(len(whole)):
                if bare and whole[at : at + len(bare)] == bare:
                    return tuple(whole[:at])
        return () if self._wrapper.bos_token_id is None else (self._wrapper.bos_token_id,)

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
            raise PromptError("this model has no chat template; use generate --raw, or choose another model")
        plain = [_message(message) for message in messages]
        if not plain:
            raise PromptError("there are no messages; give at least one user message")
        with guarded("the model's chat template refuses these messages", "change them, or use --raw", PromptError):
            return self.template.render(plain, variables or {})

    def encode_rendered(self, text: str) -> list[int]:
        """Token ids of a rendered conversation, or a piece of one: the template has written every special token."""
        _check_text(text)
        return list(self._wrapper.encode(text, add_special_tokens=False))

    def encode_continued(self, text: str) -> list[int]:
        """As `encode_rendered`, of a piece with text before it: it gets no space that a text's first word would."""
        if self._puts_space_first:
            for before in ("\n", ".", "a"):
                guard, both = self.encode_rendered(before), self.encode_rendered(before + text)
                if guard and both[: len(guard)] == guard:
                    return both[len(guard) :]
        return self.encode_rendered(text)

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
            raise SettingsError(
                f"stop-token {text!r} is not a single token of this model ({shown}); use --stop for text"
            )
        return known

    @cached_property
    def _puts_space_first(self) -> bool:
        word = self.encode_rendered("a")
        return self.decode(word + word).endswith("a a")

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, special ones included; ids that no token has are left out."""
        if not self._is_fast:
            tokens = [token for token in tokens if self.piece(token) is not None]
        return str(self._wrapper.decode(list(tokens))) if tokens else ""

    def decode_whole(self, tokens: Sequence[int]) -> str:
        """As `decode`, less half a character at the end: bytes that others could still make one of."""
        text = self.decode(tokens)
        if not text.endswith(REPLACEMENT) or self.cleans:
            return text
        if not self._continuations:
            return text if self._is_fast else text.removesuffix(REPLACEMENT)
        pieces = [piece for token in tokens if (piece := self.piece(token)) is not None]
        for marks in self._continuations:
            for first in marks:
                for more in range(3):
                    longer = self._spelled([*pieces, first, *marks[:1] * more])
                    if not longer.endswith(REPLACEMENT):
                        return longer[:-1]
        return text

    @cached_property
    def _continuations(self) -> tuple[tuple[str, ...], ...]:
        """How bytes are written that go on from half a character; nothing where no token is half of one."""
        return tuple(marks for marks in _CONTINUATIONS if self._spelled(marks[:1]) == REPLACEMENT)

    def _spelled(self, pieces: Sequence[str]) -> str:
        """The text of some tokens as they stand in the vocabulary, or of such as could."""
        try:
            return str(self._wrapper.convert_tokens_to_string(list(pieces)))
        except (AttributeError, LookupError, NotImplementedError, TypeError):  # tokenizers in Python need not have it
            return ""

    def piece(self, token: int) -> str | None:
        """A token as it stands in the vocabulary; None for an id that is none, as in holes and in a padded head."""
        try:
            piece = self._wrapper.convert_ids_to_tokens(token)
        except (LookupError, ValueError, AssertionError):  # tokenizers in Python have no common answer
            return None
        return None if piece is None else str(piece)

    def is_byte(self, piece: str) -> bool:
        """Whether a token is a byte, "<0xE2>", whose text depends on the bytes around it."""
        return _BYTE.fullmatch(piece) is not None and self._reads_bytes

    @cached_property
    def _reads_bytes(self) -> bool:
        return self._spelled(["<0x80>"]) == REPLACEMENT

    @property
    def _is_fast(self) -> bool:
        return bool(getattr(self._wrapper, "is_fast", False))

    @cached_property
    def cleans(self) -> bool:
        """Whether `decode` takes out spaces before punctuation."""
        return bool(getattr(self._wrapper, "clean_up_tokenization_spaces", False))


def _load(folder: Path, eos_ids: int | list[int] | None, trust_remote_code: bool) -> TokenizerWrapper:
    """As mlx-lm's `load_tokenizer`, without its streaming detokenizers and tool parsers.

    The former are not needed, take their time for large vocabularies, and fail for some with holes.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    mend(tokenizer)
    defaults = _defaults(folder)
    eos_ids = defaults.get("eos_token_ids") if eos_ids is None else eos_ids
    own = tokenizer.init_kwargs.get("chat_template_type")
    chosen = own or defaults.get("chat_template_type")
    template = importlib.import_module(f"mlx_lm.chat_templates.{chosen}").apply_chat_template if chosen else None
    return TokenizerWrapper(
        tokenizer,
        lambda _: None,
        eos_token_ids=[eos_ids] if isinstance(eos_ids, int) else eos_ids,
        # A template in the checkpoint replaces a default one of the family.
        chat_template=template if own or tokenizer.chat_template is None else None,
    )


def _defaults(folder: Path) -> Mapping[str, Any]:
    """What mlx-lm says of a family's tokenizers, for checkpoints that do not."""
    try:
        model_class, _ = _get_classes(load_config(folder))
    except (OSError, KeyError, TypeError, ValueError, AttributeError, ImportError, SystemExit):
        return {}
    return getattr(sys.modules[model_class.__module__], "TOKENIZER_DEFAULTS", None) or {}


def mend(tokenizer: Any) -> None:
    """Make `decode` give back what was encoded, where a tokenizer's files do not say how.

    A byte-level tokenizer without a decoder, as Tekken's, would show its mark of a space. Taking out spaces before
    punctuation is for tokenizers that put them there; transformers does not do it for BPE any more either.
    """
    raw = getattr(tokenizer, "backend_tokenizer", None)
    if raw is None:
        return
    if raw.decoder is None:
        text = "€" if raw.normalizer is None else raw.normalizer.normalize_str("€")
        pieces = [(text, None)] if raw.pre_tokenizer is None else raw.pre_tokenizer.pre_tokenize_str(text)
        if "âĤ¬" in "".join(piece for piece, _ in pieces):
            raw.decoder = decoders.ByteLevel()
    if type(raw.model).__name__ == "BPE":
        tokenizer.clean_up_tokenization_spaces = False


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"the text has an incomplete character at {error.start}; give valid Unicode text") from None


def _message(message: Message) -> dict[str, str]:
    whole = isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))
    if not whole:
        raise PromptError(f"a message must be {{'role': TEXT, 'content': TEXT}}, not {message!r}")
    return dict(message)
