"""The one cycle: draft, verify, keep, roll back. Plain decoding is a cycle of zero drafts."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from helix_mlx.engine.batch import Batch
from helix_mlx.models.loader import LanguageModel
from helix_mlx.paging.paged_cache import PagedKV, commit
from helix_mlx.request import MAX_DRAFT_TOKENS
from helix_mlx.speculative.drafter import DraftContext, Drafter
from helix_mlx.speculative.verification import verify
from helix_mlx.speculative.verification.types import Rows


def tail_slots(page_size: int) -> int:
    """Slots a decoding tail needs: a page in waiting, and the rows of two cycles, one of them not read yet."""
    return page_size + 2 * (MAX_DRAFT_TOKENS + 1)


def prefill(
    model: LanguageModel,
    kv: PagedKV,
    tokens: list[int],
    start: int,
    chunk: int,
    between: Callable[[int], bool] = lambda done: True,
) -> None:
    """Read known tokens of one sequence into its pages, a chunk a pass.

    Args:
        model: the model that `kv` belongs to.
        kv: one sequence's keys and values, valid up to position start - 1.
        tokens: the tokens at positions start, start + 1, ...
        start: the first position to write.
        chunk: positions a pass at most.
        between: called after each pass with the tokens read so far; False ends the reading there.

    Raises:
        MemoryBudgetError: no page is free.
    """
    # An answer may end with more than a page in its tail.
    commit([kv], [[start]])
    if not tokens:
        return
    page_size = kv.pool.page_size
    try:
        kv.tail = kv.tail.resized(page_size + max(tail_slots(page_size), min(chunk, len(tokens))))
        done = 0
        while done < len(tokens):
            rows = tokens[done : done + chunk]
            at = start + done
            model(mx.array([rows], mx.int32), cache=kv.caches(mx.array([at], mx.int32), at + len(rows), exact=True))
            # The logits are never looked at, so the last layer and the output head are never computed.
            mx.async_eval(kv.tail.keys, kv.tail.values)
            mx.synchronize()
            done += len(rows)
            commit([kv], [[start + done]])
            # Each chunk gathers arrays of other sizes than the one before; their memory would pile up.
            mx.clear_cache()
            if not between(done):
                break
    finally:
        kv.tail = kv.tail.resized(tail_slots(page_size))


def cycle(target: LanguageModel, drafter: Drafter | None, batch: Batch, count: int, in_flight: int) -> mx.array:
    """Build one cycle for a batch and start it; the host waits for nothing.

    Args:
        target: the target model.
        drafter: proposes the drafts; may be None where `count` is 0.
        batch: moved on to its state after the cycle, on the device.
        count: K, drafts a sequence; 0 is plain decoding.
        in_flight: tokens a sequence may be ahead of what the host has read.

    Returns:
        [B, K + 2] int32: how many drafts were kept, then that many drafts, the target's own next token, and
        filling.
    """
    lengths = batch.lengths
    limit = max(lengths) + in_flight
    exact = in_flight == 0 and min(lengths) == max(lengths)
    draft = None
    rows = batch.last_two[:, 1:]
    if count:
        assert drafter is not None
        context = DraftContext(
            batch.last_two, batch.positions, limit, exact, batch.filters, batch.seeds, batch.rules, batch.draft
        )
        draft = drafter.propose(context, count)
        rows = mx.concatenate([rows, draft.tokens], axis=1)
    caches = batch.target.caches(batch.positions, limit + 1 + count, exact)
    target_logits = target(rows, cache=caches)
    verdict = verify(Rows(target_logits, draft, batch.filters, batch.seeds, batch.positions), batch.rules)
    kept = verdict.accepted[:, None]
    # Row layout: the last token, the drafts, one place more; the next token goes where the first draft not kept is.
    following = mx.concatenate([rows, rows[:, -1:]], axis=1)
    place = mx.arange(count + 2)[None]
    following = mx.where(place == kept + 1, verdict.next_token[:, None], following)
    batch.last_two = mx.take_along_axis(following, kept + mx.arange(2)[None], axis=1)
    batch.positions = batch.positions + verdict.accepted + 1
    packed = mx.concatenate([kept, following[:, 1:]], axis=1)
    tails = [batch.target.tail] + ([batch.draft.tail] if batch.draft is not None else [])
    mx.async_eval(packed, batch.last_two, batch.positions, *((tail.keys, tail.values) for tail in tails))
    return packed
