"""The draft length that pays: plain Python, no MLX, and no clock of its own.

A cycle of K drafts yields E(K) tokens (from the acceptance seen so far) and takes T(K) seconds (from the costs seen so
far); the controller takes the K with the most tokens a second. K = 0 is a choice like any other. While parked there,
it learns nothing of the drafts, so it tries one now and then, for a small share of the time. With
a seed, or at temperature 0, no choice of it changes the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from helix_mlx.request import MAX_DRAFT_TOKENS
from helix_mlx.speculative.acceptance import Acceptance

MODEL, NGRAM, NOBODY = "model", "ngram", "none"
HYSTERESIS = 1.02
"""Another choice has to promise so many times as many tokens a second."""
PARKING = 0.99
"""Drafting goes on down to this gain: without drafts nothing is learnt of them."""
PROBE_SHARE = 0.01
"""The share of the time without drafts that trying some again may cost."""
CATCH_UP_SHARE = 0.01
"""The share that reading what the draft missed meanwhile may cost besides."""
HORIZON = 64
"""Tokens over which it has to pay that a draft model reads what it missed."""


@dataclass(frozen=True)
class Choice:
    """Who drafts in the next cycle, how many, and what that promises over plain decoding: 1 is as fast."""

    drafter: str
    count: int
    gain: float
    reason: str


@dataclass(frozen=True)
class Offer:
    """A drafter that could be asked.

    Args:
        drafter: its name.
        acceptance: how many of its drafts are kept.
        most: the most drafts it has to offer now.
        cycle_s: the cost of a cycle of K of its drafts.
        catch_up_s: what it costs before, since it has to read first what it missed.
    """

    drafter: str
    acceptance: Acceptance
    most: int
    cycle_s: Callable[[int], float]
    catch_up_s: float = 0.0


class DraftLength:
    """Chooses for one sequence, cycle by cycle."""

    def __init__(self) -> None:
        self.last = Choice(NOBODY, 0, 1.0, "nothing is known yet")
        self._parked_s = 0.0
        self._failed = 0
        self._again = False
        self._tried: Acceptance | None = None  # whose draft was tried in the last cycle

    def note(self, drafted: int, accepted: int) -> None:
        """What came of the last choice: where a try was kept, the next one follows at once."""
        if self._tried is not None and drafted:
            self._failed = 0 if accepted else min(self._failed + 1, 2)
            self._again = accepted > 0
        self._tried = None

    def choose(self, offers: Sequence[Offer], plain_s: float, left: int) -> Choice:
        """The best of what is offered, for the next cycle.

        Args:
            offers: the drafters that may be asked.
            plain_s: the cost of a cycle without drafts.
            left: tokens that the answer may still have, at least 1.
        """
        offers = [replace(offer, most=min(offer.most, left - 1, MAX_DRAFT_TOKENS)) for offer in offers]
        best = max(self._choices(offers, plain_s, left), key=self._worth)
        if best.count:
            self._parked_s, self._failed, self._again = 0.0, 0, False
        else:
            best = self._probe(offers, plain_s) or best
        self.last = best
        return best

    def _choices(self, offers: Sequence[Offer], plain_s: float, left: int) -> list[Choice]:
        choices = [Choice(NOBODY, 0, PARKING, "drafts would not pay")]
        for offer in offers:
            tokens = offer.acceptance.tokens()
            for count in range(1, offer.most + 1):
                cost = offer.cycle_s(count) + offer.catch_up_s * tokens[count] / min(left, HORIZON)
                gain = tokens[count] * plain_s / cost
                kept = (tokens[count] - 1) / count
                choices.append(Choice(offer.drafter, count, gain, f"{kept:.0%} kept, {gain:.2f} times plain decoding"))
        return choices

    def _worth(self, choice: Choice) -> float:
        """Its gain, and something for being the choice so far."""
        same = (choice.drafter, choice.count) == (self.last.drafter, self.last.count)
        return choice.gain * (HYSTERESIS if same else 1.0)

    def _probe(self, offers: Sequence[Offer], plain_s: float) -> Choice | None:
        """One draft, where enough time has passed without any that the try costs little of it."""
        self._parked_s += plain_s
        able = [offer for offer in offers if offer.most]
        if not able:
            return None
        offer = max(able, key=lambda offer: offer.acceptance.chances()[0])
        cost = max(0.0, offer.cycle_s(1) - plain_s)
        if not self._again:
            # What was missed grows with the time that has passed. It has a share of its own, and no failure adds to
            # it: otherwise the next try might never come.
            missed_s = max(0.0, offer.catch_up_s - self._parked_s * CATCH_UP_SHARE)
            if self._parked_s * PROBE_SHARE < cost * 2**self._failed + missed_s:
                return None
            offer.acceptance.fade()
        self._parked_s, self._again, self._tried = 0.0, False, offer.acceptance
        return Choice(offer.drafter, 1, 1.0, "a try, whether drafts pay again")
