"""The n-gram drafter (prompt lookup): looks up the sequence's last tokens earlier in the sequence. No model.

It proposes what followed the last occurrence of the same tokens, preferring the longest match. It is
worth most where an answer repeats its prompt, as in an edit. The proposal is made without chance, so its probabilities
are one-hot, and every verification rule keeps the text exact.
"""

from __future__ import annotations

from collections.abc import Sequence

SIZES = (5, 4, 3, 2)
"""Lengths of the n-grams to match, longest first."""


LONG = 4
"""From this length on a match is "long", which is right far more often."""
SHORT_MATCH, LONG_MATCH = "ngram", "ngram, long"
"""The kinds of a proposal."""


class NgramLookup:
    """An index of the last occurrence of each n-gram of one sequence, which may only grow.

    `matched` is how many tokens matched the last time it was asked, 0 where none did.
    """

    def __init__(self) -> None:
        self.matched = 0
        self._after: dict[tuple[int, ...], int] = {}
        self._known = 0

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """Up to `count` tokens that may follow: all of them where anything matches, else none.

        Args:
            tokens: the whole sequence so far; the same one as before, and what it has grown by.
            count: K.
        """
        for end in range(self._known, len(tokens)):
            for size in SIZES:
                if end >= size:
                    self._after[tuple(tokens[end - size : end])] = end
        self._known = max(self._known, len(tokens))
        self.matched = 0
        if tuple(tokens[-SIZES[-1] :]) not in self._after:
            return []
        for size in SIZES:
            start = self._after.get(tuple(tokens[-size:])) if len(tokens) >= size else None
            if start is not None:
                self.matched = size
                return _copied(tokens, start, count)
        return []

    def kind(self) -> str:
        """Whether the last match was a long one."""
        return LONG_MATCH if self.matched >= LONG else SHORT_MATCH

    def observe(self, proposed: int, accepted: int) -> None:
        """Does nothing: this drafter does not learn from acceptance."""

    def release(self) -> None:
        """Forget the sequence."""
        self._after.clear()


def _copied(tokens: Sequence[int], start: int, count: int) -> list[int]:
    """What stands at `start` and behind; past the end it goes on with what was copied, as a repetition would."""
    copied: list[int] = []
    for at in range(start, start + count):
        copied.append(tokens[at] if at < len(tokens) else copied[at - len(tokens)])
    return copied
