"""Chooses the fastest draft length. Plain Python, without MLX and without a clock.

A cycle of K drafts yields E(K) tokens (from the acceptance seen so far) and takes T(K) seconds (from the costs seen so
far); the controller takes the K with the most tokens a second. K = 0 is a choice like any other. While parked there,
it learns nothing of the drafts, so it tries one now and then, for a small share of the time. With
a seed, or at temperature 0, no choice of it changes the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from helix_mlx.request import MAX_DRAFT_TOKENS
from helix_mlx.speculative.acceptance import Estimate

NO_DRAFT = "none"
"""Instead of a drafter's name."""
HYSTERESIS = 1.02
"""Switch only for this gain in tokens per second."""
PARKING = 1.01
"""AdaptiveDraftPolicy goes on down to this gain: what promises less is not worth the risk that it is none."""
PROBE_SHARE = 0.01
"""Share of the time without drafts that exploratory drafts may cost."""
CATCH_UP_SHARE = 0.01
"""Additional share for catching the draft model up."""
WORTH_TRYING = 1.05
"""Minimum gain if all drafts were accepted; below it none are tried."""
MOST_TRIES = 4
"""Tries that follow each other where each was kept. By then it is known whether more of them would pay."""
FRESH_TRIES = 1
"""Tries at the beginning of an answer, and more where one is kept, where drafts would not pay in those before it: this
one may be another."""
FRESH_SHARE = 0.02
"""Share of an answer's time that the draft's prefill may cost."""
HORIZON = 64
"""Tokens within which catching the draft model up must pay off."""
RISK = 2.0
"""What that counts as, in times of itself: about every second text that is read so turns out not to be worth it."""


@dataclass(frozen=True)
class Choice:
    """The drafter and draft length of the next cycle, and the expected speedup over plain decoding.

    `kept` is the share of the drafts that is expected to be kept; `tries` tells a draft that is made to learn.
    """

    drafter: str
    count: int
    gain: float
    kept: float = 0.0
    tries: bool = False

    @property
    def reason(self) -> str:
        """The reason, in a few words."""
        if self.tries:
            return "a try, whether drafts pay again"
        if not self.count:
            return "drafts would not pay"
        return f"{self.kept:.0%} of {self.count} kept, {self.gain:.2f} times plain decoding"


PLAIN = Choice(NO_DRAFT, 0, PARKING)
"""No drafts: the baseline for the others."""


@dataclass(frozen=True)
class Candidate:
    """A drafter that could be asked.

    Args:
        drafter: its name.
        acceptance: how many of its drafts are kept.
        most: the most drafts it can propose now.
        cycle_s: the cost of a cycle of K of its drafts.
        catch_up_s: what it costs before, since it has to read first what it missed.
    """

    drafter: str
    acceptance: Estimate
    most: int
    cycle_s: Callable[[int], float]
    catch_up_s: float = 0.0


class DraftLengthController:
    """Chooses the draft length of a batch, cycle by cycle."""

    def __init__(self) -> None:
        self.last = Choice(NO_DRAFT, 0, 1.0)
        self._parked_s = 0.0
        self._failed = 0
        self._tried = False
        self._in_a_row = 0  # tries that were kept, up to the last cycle
        self._fresh = 0

    def begin(self) -> None:
        """A new answer has started."""
        self._fresh, self._failed, self._in_a_row = FRESH_TRIES, 0, 0

    def note(self, drafted: int, accepted: int) -> None:
        """Report the last choice's result; after an accepted try, the next follows at once."""
        if self._tried and drafted:
            self._failed = 0 if accepted else min(self._failed + 1, 2)
            self._in_a_row = (self._in_a_row + 1) % MOST_TRIES if accepted else 0
        self._tried = False

    def choose(self, candidates: Sequence[Candidate], plain_s: float, remaining: int) -> Choice:
        """Choose the best candidate for the next cycle, and commit to it.

        Args:
            candidates: the drafters that may be asked.
            plain_s: the cost of a cycle without drafts.
            remaining: tokens that the answer may still have, at least 1.
        """
        choice = self.weigh(candidates, plain_s, remaining)
        self.commit_choice(choice, candidates, plain_s)
        return choice

    def weigh(self, candidates: Sequence[Candidate], plain_s: float, remaining: int) -> Choice:
        """What `choose` would return, without side effects."""
        best, best_worth = PLAIN, PARKING * (HYSTERESIS if not self.last.count else 1.0)
        limit = min(remaining - 1, MAX_DRAFT_TOKENS)
        for candidate in candidates:
            tokens = candidate.acceptance.tokens()
            spread = RISK * candidate.catch_up_s / min(remaining, HORIZON)
            for count in range(1, min(candidate.most, limit) + 1):
                gain = tokens[count] * plain_s / (candidate.cycle_s(count) + spread * tokens[count])
                same = count == self.last.count and candidate.drafter == self.last.drafter
                worth = gain * HYSTERESIS if same else gain
                if worth > best_worth:
                    best, best_worth = Choice(candidate.drafter, count, gain, (tokens[count] - 1) / count), worth
        return best if best.count else self._probe(candidates, plain_s, remaining) or best

    def commit_choice(self, choice: Choice, candidates: Sequence[Candidate], plain_s: float, cycles: int = 1) -> None:
        """The next cycle runs by this choice; `cycles` counts it and those before that ran without asking."""
        self.last = choice
        self._tried = choice.tries
        if choice.tries:
            self._fresh -= self._fresh > 0
            self._parked_s = 0.0
            if not self._in_a_row:
                next(candidate for candidate in candidates if candidate.drafter == choice.drafter).acceptance.discount()
        elif choice.count:
            self._parked_s, self._failed, self._in_a_row = 0.0, 0, 0
        else:
            self._parked_s, self._in_a_row = self._parked_s + plain_s * cycles, 0

    def _probe(self, candidates: Sequence[Candidate], plain_s: float, remaining: int) -> Choice | None:
        """A single exploratory draft, if enough time has passed that it costs little."""
        able = [
            candidate
            for candidate in candidates
            if remaining > 1 and could_pay(candidate.most, plain_s, candidate.cycle_s)
        ]
        if not able:
            return None
        candidate = max(able, key=lambda candidate: candidate.acceptance.chances()[0]) if len(able) > 1 else able[0]
        fresh = self._fresh and candidate.catch_up_s <= FRESH_SHARE * remaining * plain_s
        if not (self._in_a_row or fresh):
            parked_s = self._parked_s + plain_s
            cost = max(0.0, candidate.cycle_s(1) - plain_s)
            # What was missed grows with the time that has passed. It has a share of its own, and no failure adds to
            # it: otherwise the next try might never come.
            missed_s = max(0.0, candidate.catch_up_s - parked_s * CATCH_UP_SHARE)
            if parked_s * PROBE_SHARE < cost * 2**self._failed + missed_s:
                return None
        return Choice(candidate.drafter, 1, 1.0, candidate.acceptance.chances()[0], tries=True)


def could_pay(most: int, plain_s: float, cycle_s: Callable[[int], float]) -> bool:
    """Whether drafting would pay off if all drafts were accepted.

    Args:
        most: the largest K.
        plain_s: the cost of a cycle without drafts.
        cycle_s: the cost of a cycle of K of them.
    """
    return any((count + 1) * plain_s > WORTH_TRYING * cycle_s(count) for count in range(1, most + 1))
