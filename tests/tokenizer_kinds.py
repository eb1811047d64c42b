"""Tokenizers of every kind that models bring, made of a few lines, with special tokens and holes in their ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as RawTokenizer
from transformers import PreTrainedTokenizerFast

from helix_mlx.models.text.tokenizer import Tokenizer, mend

LINES = [
    "def f(x):\n    if x:\n        return x  # twice   spaced\n\treturn None\n",
    "It's what they don't say, isn't it? \"We've said: they're here!\" I'm one of them . , ! ?",
    "Grüße aus Köln, naïve café; 你好世界。 こんにちは  العالم नमस्ते 😀👩‍👩‍👧 🇩🇪",
    "the the the a a, no. NUL and one �: x = y + 2;  {'a': [1, 2]}\r\n\n\n",
]
SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>"]
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


WORDS = sorted({word for line in LINES for word in line.split()})
CHARACTERS = sorted({c for line in LINES for c in line if c != " "})


def byte_level(decoder: Any, pre: Any = None) -> RawTokenizer:
    """Byte-level BPE, as of GPT-2 and all that came of it."""
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre or pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(LINES * 3, trainer)
    if decoder is not None:
        raw.decoder = decoder
    return raw


def numbered(pieces: list[str]) -> dict[str, int]:
    """A vocabulary in the order of its pieces, behind the special tokens."""
    return {piece: at for at, piece in enumerate(dict.fromkeys([*SPECIAL, *pieces]))}


def grown(words: list[tuple[str, ...]]) -> list[tuple[str, str]]:
    """The merges that put words together from their beginnings on."""
    merges = [("".join(word[:n]), word[n]) for word in words for n in range(1, len(word))]
    return list(dict.fromkeys(merges))


def bpe(characters: list[str], words: list[tuple[str, ...]], **settings: Any) -> RawTokenizer:
    """BPE with every second word."""
    merges = grown(words[::2])
    vocab = numbered([*characters, *("".join(pair) for pair in merges)])
    raw = RawTokenizer(models.BPE(vocab, merges, unk_token="<unk>", **settings))
    raw.add_special_tokens(SPECIAL)
    return raw


def sentencepiece(decoder: Any, prepend: bool) -> RawTokenizer:
    """BPE over characters with bytes for what it does not know: all that is not Latin."""
    known = [c for c in CHARACTERS if c < "\u0370" and c != "\n"]
    words = [tuple("▁" + word) for word in WORDS if set(word) <= set(known)]
    raw = bpe([*BYTES, "▁", "\ufffd", *known], words, byte_fallback=True, fuse_unk=True)
    replace = normalizers.Replace(" ", "▁")
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prepend else replace
    if decoder is not None:
        raw.decoder = decoder
    return raw


def unigram(scheme: Any, pieces: tuple[str, ...] = ()) -> RawTokenizer:
    """Unigram with Metaspace, as of T5 and XGLM."""
    words = ["▁" + word for word in WORDS[::2]]
    vocab = [(piece, -4.0 * (len(piece) < 2)) for piece in numbered(["▁", *CHARACTERS, *words, *pieces])]
    raw = RawTokenizer(models.Unigram(vocab, 0, byte_fallback=bool(pieces)))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    raw.decoder = decoders.Metaspace(prepend_scheme=scheme)
    if pieces:
        raw.decoder = decoders.Sequence([decoders.ByteFallback(), raw.decoder])
    raw.add_special_tokens(SPECIAL)
    return raw


def word_piece() -> RawTokenizer:
    """Words, and "##" for what goes on, as of BERT."""
    vocab = numbered([*CHARACTERS, *("##" + c for c in CHARACTERS), *WORDS[::2], "##s", "##ing"])
    raw = RawTokenizer(models.WordPiece(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece(cleanup=True)
    raw.add_special_tokens(SPECIAL)
    return raw


def word_level() -> RawTokenizer:
    """Whole words without a decoder, which are joined by spaces."""
    raw = RawTokenizer(models.WordLevel(numbered([*WORDS, *CHARACTERS]), "<unk>"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.add_special_tokens(SPECIAL)
    return raw


def suffixes() -> RawTokenizer:
    """BPE that marks the ends of words, as of the first GPT."""
    ends = [c + "</w>" for c in CHARACTERS]
    words = [(*word[:-1], word[-1] + "</w>") for word in WORDS]
    raw = bpe([*CHARACTERS, *ends], words, end_of_word_suffix="</w>")
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.BPEDecoder(suffix="</w>")
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
    "unigram bytes": lambda: unigram("always", tuple(BYTES)),
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
