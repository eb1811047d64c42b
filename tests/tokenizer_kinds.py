"""Tokenizers of every kind that models bring, trained on a few lines, with special tokens and holes in their ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as RawTokenizer
from transformers import PreTrainedTokenizerFast

from helix_mlx.models.tokenizer import Tokenizer, mend

LINES = [
    "def f(x):\n    if x:\n        return x  # twice   spaced\n\treturn None\n",
    "It's what they don't say, isn't it? \"We've said: they're here!\" I'm one of them . , ! ?",
    "Grüße aus Köln, naïve café; 你好世界。 こんにちは  العالم नमस्ते 😀👩‍👩‍👧 🇩🇪",
    "the the the a a, no. NUL and one �: x = y + 2;  {'a': [1, 2]}\r\n\n\n",
]
SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>"]
QUIET: dict[str, Any] = {"show_progress": False}
CHAT = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}assistant:"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LLAMA = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)
GEMMA = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
TEKKEN = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(r"\p{L}+| ?[^\s\p{L}]+|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)


def trained(raw: RawTokenizer, trainer: Any) -> None:
    raw.train_from_iterator(LINES * 3, trainer)


def byte_level(decoder: Any, pre: Any = None) -> RawTokenizer:
    """Byte-level BPE, as of GPT-2 and all that came of it."""
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre or pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained(raw, trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, **QUIET))
    if decoder is not None:
        raw.decoder = decoder
    return raw


def sentencepiece(decoder: Any, prepend: bool) -> RawTokenizer:
    """BPE over characters with bytes for what it does not know."""
    raw = RawTokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    replace = normalizers.Replace(" ", "▁")
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prepend else replace
    words = trainers.BpeTrainer(vocab_size=400, special_tokens=[*SPECIAL, *BYTES], limit_alphabet=60, **QUIET)
    # Trained a word at a time, as SentencePiece does; the tokenizer itself splits nothing.
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trained(raw, words)
    rules = json.loads(raw.to_str())
    rules["pre_tokenizer"] = None
    rules["added_tokens"] = rules["added_tokens"][: len(SPECIAL)]
    raw = RawTokenizer.from_str(json.dumps(rules))
    raw.decoder = decoder
    return raw


def unigram(scheme: str) -> RawTokenizer:
    """Unigram with Metaspace, as of T5 and XGLM."""
    raw = RawTokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    raw.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trained(raw, trainers.UnigramTrainer(vocab_size=250, special_tokens=SPECIAL, unk_token="<unk>", **QUIET))
    return raw


def unigram_bytes() -> RawTokenizer:
    """Unigram with bytes for what it does not know."""
    rules = json.loads(unigram("always").to_str())
    rules["model"] |= {"byte_fallback": True, "vocab": rules["model"]["vocab"] + [[piece, -9.0] for piece in BYTES]}
    raw = RawTokenizer.from_str(json.dumps(rules))
    raw.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return raw


def word_piece() -> RawTokenizer:
    """Words, and "##" for what goes on, as of BERT."""
    raw = RawTokenizer(models.WordPiece(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece(cleanup=True)
    trained(raw, trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, **QUIET))
    return raw


def word_level() -> RawTokenizer:
    """Whole words without a decoder, which are joined by spaces."""
    raw = RawTokenizer(models.WordLevel(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trained(raw, trainers.WordLevelTrainer(special_tokens=SPECIAL, **QUIET))
    return raw


def suffixes() -> RawTokenizer:
    """BPE that marks the ends of words, as of the first GPT."""
    raw = RawTokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.BPEDecoder(suffix="</w>")
    trained(raw, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, end_of_word_suffix="</w>", **QUIET))
    return raw


def ctc() -> RawTokenizer:
    """Characters of which the same twice in a row are one."""
    raw = RawTokenizer(models.WordLevel({c: i for i, c in enumerate([*SPECIAL, "<pad>", "|", *"abcdefg ,."])}, "<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.CTC(pad_token="<pad>", word_delimiter_token="|", cleanup=False)
    raw.add_special_tokens(SPECIAL)
    return raw


KINDS: dict[str, Callable[[], RawTokenizer]] = {
    "byte-level": lambda: byte_level(decoders.ByteLevel()),
    "byte-level sequence": lambda: byte_level(decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()]), TEKKEN),
    "tekken": lambda: byte_level(None, TEKKEN),
    "llama": lambda: sentencepiece(LLAMA, True),
    "gemma": lambda: sentencepiece(GEMMA, False),
    "unigram": lambda: unigram("always"),
    "unigram first": lambda: unigram("first"),
    "unigram never": lambda: unigram("never"),
    "unigram bytes": unigram_bytes,
    "unigram cleaned": lambda: unigram("always"),
    "word piece": word_piece,
    "word piece cleaned": word_piece,
    "word level": word_level,
    "suffixes": suffixes,
    "ctc": ctc,
}


def with_holes(raw: RawTokenizer) -> RawTokenizer:
    """The same tokenizer with every seventh id left out, as a checkpoint's edited vocabulary leaves them."""
    rules = json.loads(raw.to_str())
    if not isinstance(rules["model"]["vocab"], dict):  # places in a list
        return raw
    rules["model"]["vocab"] = {piece: at + at // 6 for piece, at in rules["model"]["vocab"].items()}
    for token in rules["added_tokens"]:
        token["id"] += token["id"] // 6
    return RawTokenizer.from_str(json.dumps(rules))


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    """A tokenizer of a kind, as it is after loading."""
    raw = with_holes(KINDS[kind]())
    start = ("<s>", raw.token_to_id("<s>"))
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[start, ("</s>", raw.token_to_id("</s>"))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=kind.endswith("cleaned"),
    )
    fast.chat_template = CHAT
    mend(fast)
    return Tokenizer(TokenizerWrapper(fast, lambda _: None, eos_token_ids=[fast.eos_token_id]))
