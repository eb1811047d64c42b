"""Keeps answers going where the choice of drafts fails: it is a policy, and may cost speed but no answer."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager

from helix_mlx.engine.scheduling.draft_policy import DraftPolicy
from helix_mlx.engine.scheduling.sequence import Sequence
from helix_mlx.speculative.draft_length import NO_DRAFT
from helix_mlx.types import Notice


class FailsafePolicy:
    """Hands every call on to another policy. Once that has failed, the engine chooses no drafts any more.

    Args:
        policy: decides as long as it works.
        tell: is told of the failure, once.
    """

    def __init__(self, policy: DraftPolicy, tell: Notice) -> None:
        self._policy = policy
        self._tell = tell
        self._failed = False

    def choose(self, decoding: Seq[Sequence], most: int) -> None:
        """See `DraftPolicy.choose`."""
        with self._watched():
            if not self._failed:
                self._policy.choose(decoding, most)
        if self._failed:
            for sequence in decoding:
                if sequence.drafting.is_adaptive:
                    sequence.drafting.set_next(NO_DRAFT, 0)
                    sequence.stats.draft_choice = "choosing drafts failed"

    def wants_drafts(self, decoding: Seq[Sequence], most: int) -> bool:
        """See `DraftPolicy.wants_drafts`."""
        with self._watched():
            return not self._failed and self._policy.wants_drafts(decoding, most)
        return False

    def note(self, outcomes: Seq[tuple[Sequence, int, int]], uses_model: bool, seconds: float | None) -> None:
        """See `DraftPolicy.note`."""
        with self._watched():
            if not self._failed:
                self._policy.note(outcomes, uses_model, seconds)

    def note_read(self, tokens: int, seconds: float) -> None:
        """See `DraftPolicy.note_read`."""
        with self._watched():
            if not self._failed:
                self._policy.note_read(tokens, seconds)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._failed = True
            self._tell(
                f"Choosing drafts failed ({type(error).__name__}: {error}); continuing without drafts. "
                "This is a bug in Helix; please report it."
            )
