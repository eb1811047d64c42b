"""How much KV memory there is, and how much of it is held."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import Any

import mlx.core as mx

from helix_mlx.config import DEFAULT_SEQUENCES, EngineConfig
from helix_mlx.engine.metrics import Metrics
from helix_mlx.errors import MemoryBudgetError, SettingsError
from helix_mlx.models.pair import Pair
from helix_mlx.paging.page_pool import PagePool

DEFAULT_CONTEXT = 4096
"""Where neither a model says how many positions it was made for nor the user how many to have."""
DEFAULT_CONTEXTS = 4
"""Whole contexts that the pool holds where the device has memory to spare and nobody says otherwise."""


@dataclass(frozen=True)
class MemoryReport:
    """KV memory at a moment. `bytes` is what the pool takes, `waste` the share of held positions not in use.

    `pages_used` are held by running answers; `pages_cached` by nobody, and taken back whenever they are wanted.
    """

    pages_total: int
    pages_used: int
    pages_cached: int
    bytes: int
    waste: float

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for `json.dumps`."""
        return asdict(self)


def allocate_pool(pair: Pair, config: EngineConfig) -> tuple[PagePool, EngineConfig]:
    """The page pool for a pair, and the configuration with `kv_memory` and `max_context` filled in.

    Raises:
        SettingsError: the context is longer than the model was made for.
        MemoryBudgetError: the memory does not hold one page, or not the context that was asked for.
    """
    models = [pair.target.layers] + ([pair.draft.layers] if pair.draft else [])
    per_page = PagePool.bytes_per_page(models, config.page_size)
    limit = pair.target.max_context
    if config.max_context is not None and limit is not None and config.max_context > limit:
        raise SettingsError(
            f"max-context is {config.max_context}, but {pair.name} was made for {limit} positions; ask for at most that"
        )
    context = config.max_context or limit or DEFAULT_CONTEXT
    wanted = DEFAULT_CONTEXTS * -(-context // config.page_size) + 1
    budget = config.kv_memory if config.kv_memory is not None else min(wanted * per_page, spare_memory(pair))
    pages = budget // per_page - 1  # one page is the page of zeros
    if pages < 1:
        raise MemoryBudgetError(
            f"{budget} bytes of KV memory hold no page of {config.page_size} positions for {pair.name}: "
            f"raise --kv-memory to at least {2 * per_page}"
        )
    capacity = pages * config.page_size
    if config.max_context is not None and config.max_context > capacity:
        needed = (-(-config.max_context // config.page_size) + 1) * per_page
        raise MemoryBudgetError(
            f"{budget} bytes of KV memory hold {capacity} positions, "
            f"fewer than the {config.max_context} of --max-context: "
            f"raise --kv-memory to at least {needed}, or lower --max-context"
        )
    sequences = config.max_sequences or min(DEFAULT_SEQUENCES, config.max_rows)
    resolved = replace(config, kv_memory=budget, max_context=min(context, capacity), max_sequences=sequences)
    return PagePool(models, config.page_size, pages), resolved


def spare_memory(pair: Pair) -> int:
    """Bytes that the pool may take unasked: a share of what the device recommends, less the weights."""
    info = mx.device_info()
    weights = pair.target.nbytes + (pair.draft.nbytes if pair.draft else 0)
    if "max_recommended_working_set_size" in info:
        return max(0, int(info["max_recommended_working_set_size"]) - weights) // 2
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(0, physical - weights) // 4


def report(pool: PagePool, metrics: Metrics) -> MemoryReport:
    """What is held now, and by which share in vain."""
    return MemoryReport(metrics.pages_total, metrics.pages_used, metrics.pages_cached, pool.nbytes, metrics.waste)
