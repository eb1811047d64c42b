"""The one cycle: draft, verify, keep, roll back. Plain decoding is a cycle of zero drafts."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from dataclasses import dataclass

import mlx.core as mx

from helix_mlx.engine.execution.batch import Batch
from helix_mlx.engine.execution.checkpoints import Checkpoint
from helix_mlx.engine.scheduling.sequence import Sequence
from helix_mlx.models.loader import LanguageModel
from helix_mlx.models.mtp.head import MTPHead
from helix_mlx.paging.paged_cache import PagedKV, commit
from helix_mlx.request import MAX_DRAFT_TOKENS
from helix_mlx.speculative.drafter import ModelDrafter
from helix_mlx.speculative.verification import verify
from helix_mlx.speculative.verification.types import Rows


def tail_slots(page_size: int, lookahead: int | None) -> int:
    """Slots a decoding tail needs: a page in waiting, the last position, and the rows of the cycles in flight."""
    ahead = {0: 0, 1: MAX_DRAFT_TOKENS + 1, None: 1}[lookahead]
    return page_size + MAX_DRAFT_TOKENS + 1 + ahead


def prefill_chunk(model: LanguageModel, kv: PagedKV, tokens: list[int], start: int) -> None:
    """Let a model read known tokens of one sequence in one pass, and commit the pages that this fills.

    What was in flight before has ended after it, and only the commit is in flight then.

    Args:
        model: the model that `kv` belongs to.
        kv: one sequence's keys and values, valid up to position start - 1.
        tokens: the tokens at positions start, start + 1, ...; at least one.
        start: the first position to write.

    Raises:
        MemoryBudgetError: no page is free.
    """
    limit = start + len(tokens)
    with _room([kv], start, len(tokens)):
        model(mx.array([tokens], mx.int32), cache=kv.caches(mx.array([start], mx.int32), limit, exact=True))
        # The logits are never looked at, so the last layer and the output head are never computed.
        mx.async_eval(kv.arrays)
        mx.synchronize()
        commit([kv], [[limit]])


def prefill_with_head(head: MTPHead, kvs: list[PagedKV], tokens: list[int], start: int, most: int) -> mx.array:
    """Let a target and its head read known tokens of one sequence, each in one pass, and commit the pages of both.

    Args:
        head: reads what the target has found.
        kvs: one sequence's keys and values of the target and of the head, valid up to position start - 1.
        tokens: those at positions start, start + 1, ..., and the one behind, which only the head reads.
        start: the first position to write.
        most: positions that may be committed.

    Returns:
        [1, 1, H], the target's hidden state at the last position.

    Raises:
        MemoryBudgetError: no page is free.
    """
    count = len(tokens) - 1
    at, limit, known = mx.array([start], mx.int32), start + count, mx.array([tokens], mx.int32)
    with _room(kvs, start, count):
        target, draft = kvs
        hidden = head.trunk.hidden(known[:, :-1], cache=target.caches(at, limit, exact=True))
        head(known[:, 1:], hidden, draft.caches(at, limit, exact=True))
        last = hidden[:, -1:]
        mx.async_eval(last, target.arrays, draft.arrays)
        mx.synchronize()
        commit(kvs, [[min(limit, most)]] * 2)
    return last


@contextmanager
def _room(kvs: list[PagedKV], start: int, count: int) -> Iterator[None]:
    """Tails with room for so many positions more, in the body."""
    # A draft that was not asked for a while may have left more than a page in its tail.
    if any(kv.has_full_page([start]) for kv in kvs):
        mx.synchronize()
        commit(kvs, [[start]] * len(kvs))
    slots = [kv.tail.slots for kv in kvs]
    for kv, held in zip(kvs, slots, strict=True):
        kv.resize_tail(max(held, start - kv.committed[0] + count))
    yield
    if any(kv.tail.slots > held for kv, held in zip(kvs, slots, strict=True)):
        for kv, held in zip(kvs, slots, strict=True):
            kv.resize_tail(held)
        # Each prompt gathers arrays of other sizes than the one before; their memory would pile up.
        mx.clear_cache()


@dataclass(frozen=True)
class Models:
    """Who is asked. `draft` is the model that `drafter` asks; both are None without one.

    `vocab_size` is the width of the target's logits. `head` is a head that `drafter` asks in the place of a model: it
    reads whatever the target reads, together with it, whoever drafts.
    """

    target: LanguageModel
    vocab_size: int
    draft: LanguageModel | None
    drafter: ModelDrafter | None
    head: MTPHead | None = None


@dataclass(eq=False)
class InFlightStep:
    """A cycle that the host has not read: what comes back, and who was in it with which K."""

    packed: mx.array
    sequences: list[Sequence]
    counts: list[int]
    drafting: set[int]
    """Rows whose draft model was asked."""
    checkpoints: list[Checkpoint]


def cycle(
    models: Models, batch: Batch, counts: Seq[int], proposed: dict[int, list[int]], in_flight: int, certain: bool
) -> tuple[mx.array, list[Checkpoint]]:
    """Build one cycle for a batch and start it; the host waits for nothing.

    Args:
        models: the target, and who proposes the drafts that were not looked up.
        batch: moved on to its state after the cycle, on the device.
        counts: K of each sequence; 0 is plain decoding. Rows behind a sequence's own K are filling.
        proposed: the drafts of token drafters, by row.
        in_flight: tokens a sequence may be ahead of what the host has read.
        certain: it is so far ahead for sure.

    Returns:
        [B, max K + 2] int32: how many drafts were kept, then that many drafts, the target's own next token, and
        filling. The number is -1 where the target's logits are no numbers, and the rest means nothing. And the
        recurrent states at page boundaries.
    """
    lengths = batch.lengths
    limit = max(lengths) + in_flight
    exact = in_flight == 0 and min(lengths) == max(lengths)
    draft = None
    rows = batch.last_two[:, 1:]
    count, read = max(counts), 0
    if count:
        if batch.asked(counts, proposed):
            assert models.drafter is not None
            context = batch.draft_context(in_flight)
            read = context.last.shape[1]
            draft = models.drafter.propose(context, count)
        draft = batch.spread(draft, proposed, count, models.vocab_size)
        rows = mx.concatenate([rows, draft.tokens], axis=1)
    caches = batch.target.caches(batch.positions, limit + 1 + count, exact, record=count > 0)
    hidden = None
    if models.head is None:
        target_logits = models.target(rows, cache=caches)
    else:
        hidden = models.head.trunk.hidden(rows, cache=caches)
        target_logits = models.head.trunk.logits(hidden)
    # The device goes on here while the host builds what follows.
    mx.async_eval(target_logits)
    verdict = verify(Rows(target_logits, draft, batch.filters, batch.seeds, batch.positions), batch.rules, counts)
    kept = verdict.accepted[:, None]
    checkpoints = batch.advance(verdict.accepted, counts, read, in_flight if certain else None)
    if count:
        # Row layout: the last token, the drafts, one place more; the next token goes where the first draft not kept is.
        following = mx.concatenate([rows, rows[:, -1:]], axis=1)
        place = mx.arange(count + 2)[None]
        following = mx.where(place == kept + 1, verdict.next_token[:, None], following)
        batch.last_two = mx.take_along_axis(following, kept + mx.arange(2)[None], axis=1)
    else:  # nothing to choose between; on a CPU each operation costs some microseconds
        following = batch.last_two = mx.concatenate([rows, verdict.next_token[:, None]], axis=1)
    if models.head is not None and hidden is not None:
        batch.follow(models.head, hidden, following[:, 1:], verdict.accepted, (limit + 1 + count, exact))
    batch.positions = batch.positions + verdict.accepted + 1
    packed = mx.concatenate([mx.where(verdict.finite[:, None], kept, -1), following[:, 1:]], axis=1)
    kvs = [batch.target] + ([batch.draft] if batch.draft is not None else [])
    ahead = [] if batch.hidden is None else [batch.hidden]
    mx.async_eval(packed, batch.last_two, batch.positions, *ahead, *(kv.arrays for kv in kvs))
    return packed, checkpoints
