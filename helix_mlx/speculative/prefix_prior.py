"""Typical acceptance of a drafter: over all texts, and over those whose prompts start the same way.

Prompts that share a template, a system prompt or the turns before come from one program and one conversation, and
drafts are kept about as often in all of them. A short answer has ended before its own cycles tell as much.
"""

from __future__ import annotations

from collections.abc import Sequence

LENGTHS = (0, 1, 4, 16, 64, 256, 1024)
"""Tokens of the prefixes of a prompt that are told apart. All prompts have the first one in common."""
WEIGHT = 6.0
"""How many drafts count as much as what is known of a shorter prefix."""
MEMORY = 0.995
"""Decay of a draft's weight per draft: about 200 count, so that one bad answer does not stop drafting."""
MOST_KEPT = 4096
"""Prefixes that are remembered; those that were noted last."""


def prefix_keys(prompt: Sequence[int]) -> tuple[int, ...]:
    """A key for each prefix of a prompt that has one of LENGTHS, as far as it is as long."""
    return tuple(hash(tuple(prompt[:length])) for length in LENGTHS if length <= len(prompt))


class PrefixPrior:
    """The share of first drafts that are kept, by prefixes: a long one's counts where enough of it was seen.

    Args:
        prior: the share where nothing was seen.
    """

    def __init__(self, prior: float) -> None:
        self._prior = prior
        self._seen: dict[int, tuple[float, float]] = {}

    def chance(self, keys: Sequence[int]) -> float:
        """The chance that the first draft of a cycle is kept, in an answer to a prompt with these prefix keys."""
        chance = self._prior
        for key in keys:
            if key not in self._seen:
                break
            kept, drafted = self._seen[key]
            chance = (kept + WEIGHT * chance) / (drafted + WEIGHT)
        return chance

    def note(self, keys: Sequence[int], kept: bool) -> None:
        """Record whether a first draft was accepted."""
        for key in keys:
            # What was noted last stands last.
            before, drafted = self._seen.pop(key, (0.0, 0.0))
            self._seen[key] = before * MEMORY + kept, drafted * MEMORY + 1.0
        while len(self._seen) > MOST_KEPT:
            del self._seen[next(iter(self._seen))]
