"""The tokenizer of a GGUF file, as the files that transformers reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers.tokenization_utils_base import generate_merges

from helix_mlx.errors import ModelError
from helix_mlx.models.gguf.file import GgufFile
from helix_mlx.models.third_party import guarded

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN_WORDS = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_TEKKEN_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_END_TOKENS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "</s>")
"""What ends an answer in models whose files name only one of their end tokens. Only control tokens count."""
_SPACE = "▁"


class TokenType(IntEnum):
    """What GGUF says of a token."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class _Kind:
    """How byte-level BPE cuts a text into words.

    Args:
        pattern: of the words; None takes GPT-2's.
        digits: cut off every digit first.
        nfc: compose characters first.
        whole_words: a word that is a token is taken as it is, without merges.
        starts: put the start token before a text where the file does not say.
    """

    pattern: str | None = None
    digits: bool = False
    nfc: bool = False
    whole_words: bool = False
    starts: bool = False


_LLAMA3 = _Kind(_WORDS + r"|\p{N}{1,3}" + _REST, whole_words=True, starts=True)
_QWEN2 = _Kind(_WORDS + r"|\p{N}" + _REST, nfc=True)
_TEKKEN = _Kind(_TEKKEN_WORDS + r"|\p{N}" + _TEKKEN_REST, whole_words=True, starts=True)
_KINDS: Mapping[str, _Kind] = {
    "default": _Kind(),
    "gpt-2": _Kind(),
    "smollm": _Kind(digits=True),
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "tekken": _TEKKEN,
}
"""By the names that GGUF has for them."""


@dataclass(frozen=True)
class _Vocabulary:
    """The tokens of a file, and what it says of them."""

    tokens: Sequence[str]
    types: Sequence[int]
    special: Mapping[str, int]

    def token(self, role: str) -> str | None:
        """The token of a role, such as `bos`; None without one."""
        index = self.special.get(role)
        return self.tokens[index] if index is not None and 0 <= index < len(self.tokens) else None

    def added(self) -> list[AddedToken]:
        """The tokens that are found in a text before anything else."""
        found = []
        for token, kind in zip(self.tokens, self.types, strict=True):
            if kind in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED) and token:
                found.append(AddedToken(token, special=kind != TokenType.USER_DEFINED, normalized=False))
        return found


def write_tokenizer(file: GgufFile, folder: Path) -> list[int]:
    """Write tokenizer.json and tokenizer_config.json, with the chat template.

    Returns:
        The ids of the tokens that end an answer.

    Raises:
        ModelError: it is of a kind that Helix does not know, or is damaged.
    """
    kind = file.value("tokenizer.ggml.model", str)
    if kind not in ("gpt2", "llama"):
        raise ModelError(
            f"the tokenizer of {file.path} is of the kind {kind!r}, and Helix reads only 'gpt2' and 'llama' from GGUF "
            "files; choose an MLX version of the model"
        )
    vocabulary = _vocabulary(file)
    with guarded(f"cannot use the tokenizer of {file.path}", "download the model again"):
        tokenizer = (_byte_level if kind == "gpt2" else _sentencepiece)(file, vocabulary)
        tokenizer.add_tokens(vocabulary.added())
        tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": file.setting("context_length", int),
    }
    for role in ("bos", "eos", "pad", "unk"):
        if (token := vocabulary.token(role)) is not None:
            settings[f"{role}_token"] = token
    if (template := file.optional("tokenizer.chat_template", str)) is not None:
        settings["chat_template"] = template
    text = json.dumps(settings, ensure_ascii=False, indent=1)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return _end_ids(file, vocabulary)


def _vocabulary(file: GgufFile) -> _Vocabulary:
    tokens: list[Any] = file.value("tokenizer.ggml.tokens", list)
    types: list[Any] = file.value("tokenizer.ggml.token_type", list, [TokenType.NORMAL] * len(tokens))
    if len(types) != len(tokens) or not all(isinstance(token, str) for token in tokens):
        raise ModelError(f"the tokenizer of {file.path} is damaged; download the model again")
    roles = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    ids = {role: file.optional(f"tokenizer.ggml.{name}_token_id", int) for role, name in roles.items()}
    return _Vocabulary(tokens, types, {role: index for role, index in ids.items() if index is not None})


def _end_ids(file: GgufFile, vocabulary: _Vocabulary) -> list[int]:
    named = [vocabulary.special.get("eos")]
    named += [file.optional(f"tokenizer.ggml.{name}_token_id", int) for name in ("eot", "eom")]
    control = [at for at, kind in enumerate(vocabulary.types) if kind == TokenType.CONTROL]
    found = {index for index in named if index is not None}
    return sorted(found | {at for at in control if vocabulary.tokens[at] in _END_TOKENS})


def _byte_level(file: GgufFile, vocabulary: _Vocabulary) -> Tokenizer:
    """BPE over the bytes of words, as of GPT-2 and all that came of it."""
    name = file.value("tokenizer.ggml.pre", str, "default")
    kind = _KINDS.get(name)
    if kind is None:
        raise ModelError(
            f"the tokenizer of {file.path} cuts words as {name!r} does, and Helix reads only {', '.join(_KINDS)} from "
            "GGUF files; choose an MLX version of the model"
        )
    merges = [_halves(merge) for merge in file.value("tokenizer.ggml.merges", list)]
    vocab = {token: index for index, token in enumerate(vocabulary.tokens)}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=kind.whole_words))
    if kind.nfc:
        raw.normalizer = normalizers.NFC()
    cuts: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if kind.digits else []
    if kind.pattern is not None:
        cuts.append(pre_tokenizers.Split(Regex(kind.pattern), "isolated"))
    cuts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind.pattern is None))
    raw.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    raw.decoder = decoders.ByteLevel()
    _put_start(raw, vocabulary, file.value("tokenizer.ggml.add_bos_token", bool, kind.starts))
    return raw


def _sentencepiece(file: GgufFile, vocabulary: _Vocabulary) -> Tokenizer:
    """BPE over characters, where the pieces' scores say what is merged first; bytes stand for unknown characters."""
    scores = file.value("tokenizer.ggml.scores", list)
    vocab = {token: index for index, token in enumerate(vocabulary.tokens)}
    normal = {
        token: score
        for token, score, kind in zip(vocabulary.tokens, scores, vocabulary.types, strict=True)
        if kind == TokenType.NORMAL
    }
    merges = [pair for pair in generate_merges(vocab, normal) if pair[0] in normal and pair[1] in normal]
    raw = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token=vocabulary.token("unk"), byte_fallback=True, fuse_unk=True)
    )
    prepends = file.value("tokenizer.ggml.add_space_prefix", bool, True)
    steps: list[Any] = [normalizers.Prepend(_SPACE)] if prepends else []
    raw.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    back: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    raw.decoder = decoders.Sequence([*back, *([decoders.Strip(" ", 1, 0)] if prepends else [])])
    _put_start(raw, vocabulary, file.value("tokenizer.ggml.add_bos_token", bool, True))
    return raw


def _put_start(raw: Tokenizer, vocabulary: _Vocabulary, starts: bool) -> None:
    """Put the start token before every text, where the model wants that."""
    token = vocabulary.token("bos")
    if starts and token is not None:
        raw.post_processor = processors.TemplateProcessing(
            single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, vocabulary.special["bos"])]
        )


def _halves(merge: str) -> tuple[str, str]:
    """The two parts of a merge, between which there is a space; the first one may begin with one."""
    at = merge.index(" ", 1)
    return merge[:at], merge[at + 1 :]
