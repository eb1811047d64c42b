"""Compares the vocabularies of a target and a draft, by id and by token text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from operator import itemgetter
from typing import Any, Literal

from helix_mlx.errors import PairError
from helix_mlx.models.text.tokenizer import Tokenizer

Spelling = bytes | str
MatchKind = Literal["identical", "same ids", "shared"]
LEAST_SHARED = 0.3
"""Of the draft's tokens, what the target has to know. With less, most of what a draft would say cannot be said, and
what is left of its probabilities is another model's."""
SHOWN = 3


@dataclass(frozen=True)
class VocabularyMatch:
    """What two vocabularies have in common.

    Args:
        kind: "identical" id by id; "same ids" where every id that both have is the same token, and one has more; or
            "shared" where tokens are told by their text.
        target_tokens, draft_tokens: how many each has.
        shared: tokens that both have.
        first: the first ids that differ, with both tokens.
        same_template: whether both write a conversation alike.
    """

    kind: MatchKind
    target_tokens: int
    draft_tokens: int
    shared: int
    first: tuple[tuple[int, str | None, str | None], ...] = ()
    same_template: bool = True

    @property
    def share_of_draft(self) -> float:
        """Of the draft's tokens, those that the target knows."""
        return self.shared / max(1, self.draft_tokens)

    @property
    def share_of_target(self) -> float:
        """Of the target's tokens, those that the draft knows."""
        return self.shared / max(1, self.target_tokens)

    def to_json(self) -> dict[str, Any]:
        """For a manifest."""
        shares = {"share_of_draft": self.share_of_draft, "share_of_target": self.share_of_target}
        return {**asdict(self), "first": [list(row) for row in self.first], **shares}


def compare(target: Tokenizer, draft: Tokenizer) -> VocabularyMatch:
    """How two vocabularies fit.

    Raises:
        PairError: they have too little in common; the message has the numbers.
    """
    ours, theirs = target.vocab, draft.vocab
    same_template = target.chat_template == draft.chat_template
    sizes = len(ours), len(theirs)
    if ours == theirs:
        return VocabularyMatch("identical", *sizes, len(ours), same_template=same_template)
    by_id_ours, by_id_theirs = {i: t for t, i in ours.items()}, {i: t for t, i in theirs.items()}
    both = by_id_ours.keys() & by_id_theirs.keys()
    differ = sorted(i for i in by_id_ours.keys() | by_id_theirs.keys() if by_id_ours.get(i) != by_id_theirs.get(i))
    first = tuple((i, by_id_ours.get(i), by_id_theirs.get(i)) for i in differ[:SHOWN])
    if both and all(by_id_ours[i] == by_id_theirs[i] for i in both) and len(both) >= LEAST_SHARED * sizes[1]:
        return VocabularyMatch("same ids", *sizes, len(both), first, same_template)
    match = VocabularyMatch("shared", *sizes, len(shared_ids(target, draft)), first, same_template)
    if match.share_of_draft < LEAST_SHARED:
        shown = ", ".join(f"{i} ({one!r} and {other!r})" for i, one, other in first)
        raise PairError(
            f"the draft's vocabulary differs from the target's: they share {match.shared:,} tokens, "
            f"{match.share_of_draft:.0%} of the draft's {sizes[1]:,} and {match.share_of_target:.0%} of the target's "
            f"{sizes[0]:,} "
            f"({len(differ):,} ids differ, first {shown}); "
            "choose a draft of the same family, or use --draft none --drafter ngram"
        )
    return match


def shared_ids(target: Tokenizer, draft: Tokenizer) -> dict[int, int]:
    """The draft's id of each of the target's that has one: of the same text, or the end of an answer. All differ."""
    known: dict[Spelling, int] = {}
    for index, text in spellings(draft).items():
        if index not in draft.eos_ids:
            known.setdefault(text, index)
    found = dict(zip(sorted(target.eos_ids), sorted(draft.eos_ids), strict=False))
    for index, text in spellings(target).items():
        if index not in target.eos_ids and (same := known.pop(text, None)) is not None:
            found[index] = same
    return found


def fallback_ids(target: Tokenizer, draft: Tokenizer, shared: Mapping[int, int]) -> dict[int, int]:
    """What the draft is shown for each of the target's tokens that it does not have: its longest end that it has."""
    known: dict[Spelling, int] = {}
    for index, text in spellings(draft).items():
        known.setdefault(text, index)
    found = {}
    for index, text in spellings(target).items():
        if index not in shared:
            ends = (text[start:] for start in range(1, len(text)))
            found[index] = next((known[end] for end in ends if end in known), 0)
    return found


def spellings(tokenizer: Tokenizer) -> dict[int, Spelling]:
    """What each id stands for: the bytes of its text, or the name of a control token, which no text is equal to.

    Tokens of a single byte that a vocabulary has beside those of text come last: where it can, it writes with the
    others.
    """
    vocab, added = tokenizer.vocab, tokenizer.added_tokens
    marks = [sum(mark in token for token in vocab) for mark in _MARKS]
    written = _WRITTEN[marks.index(max(marks))] if any(marks) else str.encode
    texts: dict[int, Spelling] = {}
    single: dict[int, Spelling] = {}
    for token, index in sorted(vocab.items(), key=itemgetter(1)):
        if index in added:
            as_it_is = _metaspace if written is _metaspace else str.encode
            texts[index] = token if added[index] else as_it_is(token)
        elif written is _metaspace and _BYTE.fullmatch(token):
            single[index] = bytes.fromhex(token[3:5])
        else:
            texts[index] = written(token)
    return texts | single


def _byte_level(token: str) -> Spelling:
    """As GPT-2 writes bytes: each is a character. What has others is no text."""
    codes = _byte_codes()
    try:
        return bytes([codes[character] for character in token])
    except KeyError:
        return token


def _metaspace(token: str) -> Spelling:
    """As SentencePiece writes text: its spaces are a mark of their own."""
    return token.replace("▁", " ").encode()


_MARKS = ("Ġ", "▁")
"""How a space is written, which tells how all is: a large vocabulary has either one many times, and may have the other
as the letter that it is.
"""
_WRITTEN: tuple[Callable[[str], Spelling], ...] = (_byte_level, _metaspace)
_BYTE = re.compile("<0x[0-9A-F]{2}>")


@cache
def _byte_codes() -> dict[str, int]:
    """The characters in which byte-level vocabularies write bytes (those of GPT-2), and their bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + number): byte for number, byte in enumerate(others)}
