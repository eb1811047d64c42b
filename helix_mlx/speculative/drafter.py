"""What a drafter is: something that proposes K tokens for each sequence of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from helix_mlx.paging.paged_cache import PagedKV
from helix_mlx.sampling.filters import Filters
from helix_mlx.speculative.verification.types import Draft


@dataclass(frozen=True)
class DraftContext:
    """What a drafter may look at. Nothing of it is changed but the keys and values.

    Args:
        last: [B, W] int32, W >= 2, the tokens at positions n - W + 1 to n.
        positions: [B] int32, n: the last known token's position.
        limit: a bound, known to the host, on n.
        exact: n is `limit` in every sequence.
        filters, seeds, rules: the sequences' settings, as in `Rows`.
        kv: the draft model's keys and values, valid up to position n - W; None where there is no draft model.
    """

    last: mx.array
    positions: mx.array
    limit: int
    exact: bool
    filters: Filters
    seeds: mx.array
    rules: Sequence[str]
    kv: PagedKV | None


class Drafter(Protocol):
    """Proposes tokens; it never sees the target's answer, and commits nothing."""

    def propose(self, context: DraftContext, count: int) -> Draft:
        """`count` >= 1 tokens a sequence, with the probabilities they were drawn from; the host waits for none."""
        ...
