"""Whether the next cycle may be enqueued before the last one is read: every reason against it, in one place."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from enum import Enum

from helix_mlx.engine.execution.batch import Batch
from helix_mlx.engine.scheduling.draft_policy import DraftPolicy
from helix_mlx.engine.scheduling.scheduler import Scheduler
from helix_mlx.engine.scheduling.sequence import Sequence


class WaitsFor(Enum):
    """What has to be read, or done, before the next cycle."""

    OTHER_WORK = "sequences join, leave or read their prompts"
    SWITCH = "lookahead is 0"
    DRAFTS = "drafts are made, and lookahead is left to the engine"
    COMMIT = "a page is full, and moves to the pool when nothing is in flight"
    TOKENS = "a token drafter has to see the last tokens"
    DRAFT_CONTEXT = "the draft model was made for no more positions"
    PAGES = "pages may run out, and somebody has to give up some"
    END = "an answer has ended, or is not wanted any more"
    CHOICE = "somebody should draft now"


def waits_for(
    batch: Batch,
    decode: Seq[tuple[Sequence, int]],
    scheduler: Scheduler[Sequence],
    policy: DraftPolicy,
    pages_free: int,
    lookahead: int | None,
) -> WaitsFor | None:
    """Why the next cycle of the same sequences waits; None where it may be enqueued now.

    Args:
        batch: the sequences.
        decode: they, with the K of the cycle in flight.
        scheduler: knows whether their pages suffice.
        policy: is asked last, since it may count what it is asked.
        pages_free: pages that can be had.
        lookahead: the engine's switch; None runs ahead only where nobody drafts.
    """
    drafts = any(count for _, count in decode)
    if lookahead == 0:
        return WaitsFor.SWITCH
    if batch.has_full_page():
        return WaitsFor.COMMIT
    if drafts and lookahead is None:
        return WaitsFor.DRAFTS
    if any(s.drafting.next_token_drafter is not None and s.draft_wanted for s in batch.sequences):
        return WaitsFor.TOKENS
    if any(count > s.draft_wanted for s, count in decode):
        return WaitsFor.DRAFT_CONTEXT
    if not scheduler.covers(pages_free):
        return WaitsFor.PAGES
    if any(s.finished or s.cancel_wanted for s in (*batch.sequences, *scheduler.waiting)):
        return WaitsFor.END
    if not drafts and policy.wants_drafts(batch.sequences, scheduler.most_drafts(len(batch.sequences))):
        return WaitsFor.CHOICE
    return None
