"""How much KV memory there may be, how much is taken already, and when it becomes more."""

from __future__ import annotations

import os
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass, replace
from typing import Any

import mlx.core as mx

from helix_mlx.config import DEFAULT_SEQUENCES, EngineConfig
from helix_mlx.engine.metrics import Metrics
from helix_mlx.engine.scheduling.scheduler import Scheduler, pages_to_add
from helix_mlx.engine.scheduling.sequence import Sequence
from helix_mlx.errors import MemoryBudgetError, SettingsError, renamed
from helix_mlx.models.pair import Pair
from helix_mlx.paging.page_pool import PagePool

DEFAULT_CONTEXT = 4096
"""Where neither a model says how many positions it was made for nor the user how many to have."""
DEFAULT_CONTEXTS = 4
"""Whole contexts that the pool may grow to where the device has memory to spare and nobody says otherwise."""
FIRST_CONTEXT = 32_768
"""The pool begins with one context, up to so many positions; few conversations ever become longer."""
STATES_A_SEQUENCE = 3
"""Copies of its recurrent states that a running answer may hold: its own, a cycle's, and one at a page boundary."""
DEFAULT_SNAPSHOTS = 32
"""Snapshots of recurrent states that there is room for where the memory allows it."""
MOST_PAGES = 2**24
"""Where a model has recurrent layers alone, pages take no memory, and are counted for the prefix cache only."""
LEAST_CONTEXT = 2048
"""A context that memory alone makes shorter than this is refused: nobody would expect it."""


@dataclass(frozen=True)
class MemoryReport:
    """KV memory at a moment. `bytes` is what the pool takes, `unused_fraction` the share of held positions not in use.

    `pages_total` and `bytes` grow as they are wanted, up to `budget` bytes. `pages_used` are held by running answers;
    `pages_cached` by nobody, and taken back whenever they are wanted. `context` is the most tokens of prompt and
    answer together; `context_made_for`, of those that the model was made for. `state_bytes` is what the recurrent
    states of running answers take beside the pages; `snapshot_bytes`, what the prefix cache keeps of such states.
    """

    pages_total: int
    pages_used: int
    pages_cached: int
    bytes: int
    budget: int
    unused_fraction: float
    context: int
    context_made_for: int
    state_bytes: int = 0
    snapshot_bytes: int = 0

    def __getattr__(self, name: str) -> Any:
        raise renamed("MemoryReport", name, {"waste": "unused_fraction"})

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for `json.dumps`."""
        return asdict(self)


@dataclass(frozen=True)
class StateBudget:
    """What recurrent states take of `kv_memory`, in bytes: nothing, where no layer is recurrent.

    Args:
        sequence: of one running answer: its states, those of a cycle in flight, and those at its last page boundary.
        sequences: how many answers run at once.
        snapshots: for the states that the prefix cache keeps.
    """

    sequence: int
    sequences: int
    snapshots: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.sequence * self.sequences + self.snapshots


def allocate_pool(pair: Pair, config: EngineConfig) -> tuple[PagePool, StateBudget, EngineConfig]:
    """The page pool for a pair, what recurrent states may take beside it, and the configuration with `kv_memory`,
    `max_sequences` and `max_context` filled in.

    The pool begins with the pages of one context of at most FIRST_CONTEXT positions, and may grow to what `kv_memory`
    leaves it.

    Raises:
        SettingsError: the context is longer than the model was made for.
        MemoryBudgetError: the memory is more than the machine has; or it does not hold one page, or not the context
            that was asked for, or too short a one where none was, or not the recurrent states of so many answers.
    """
    loaded_models = [pair.target] + ([pair.draft] if pair.draft else [])
    models = [loaded.layers for loaded in loaded_models]
    # Where all layers are recurrent, a page is a number.
    per_page = max(1, PagePool.bytes_per_page(models, config.page_size))
    limit = pair.target.max_context
    if config.max_context is not None and limit is not None and config.max_context > limit:
        raise SettingsError(f"max-context is {config.max_context}, but {pair.name} supports at most {limit}; lower it")
    context = config.max_context or limit or DEFAULT_CONTEXT
    wanted = (DEFAULT_CONTEXTS * _pages(context, config) + 1) * per_page
    states = sum(loaded.layout.state_bytes for loaded in loaded_models)
    sequences = config.max_sequences or min(DEFAULT_SEQUENCES, config.max_rows)
    wanted += (STATES_A_SEQUENCE * sequences + DEFAULT_SNAPSHOTS) * states
    memory = min(wanted, spare_memory(pair)) if config.kv_memory is None else _checked(config.kv_memory)
    kept = _state_budget(pair, config, memory, states, sequences)
    budget = memory - kept.total
    pages = min(budget // per_page - 1, MOST_PAGES)  # one page is the page of zeros
    if pages < 1:
        raise MemoryBudgetError(
            f"{budget} bytes of KV memory are too few for one page of {config.page_size} positions of {pair.name}: "
            f"raise --kv-memory to at least {2 * per_page}"
        )
    capacity = pages * config.page_size
    least = min(context, LEAST_CONTEXT) if config.max_context is None else context
    if capacity < least:
        needed = (_pages(least, config) + 1) * per_page
        asked = "required at least" if config.max_context is None else "of --max-context"
        raise MemoryBudgetError(
            f"{budget} bytes of KV memory hold {capacity} positions, fewer than the {least} {asked}: "
            f"raise --kv-memory to at least {needed}, or "
            + (f"accept --max-context {capacity}" if config.max_context is None else "lower --max-context")
        )
    resolved = replace(config, kv_memory=memory, max_context=min(context, capacity), max_sequences=kept.sequences)
    first = min(pages, _pages(min(context, FIRST_CONTEXT), config))
    layouts = [loaded.layout for loaded in loaded_models]
    return PagePool(models, config.page_size, first, pages, layouts, kept.total), kept, resolved


def _state_budget(pair: Pair, config: EngineConfig, memory: int, states: int, sequences: int) -> StateBudget:
    """How many answers' states the memory holds beside the pages, and how many snapshots.

    Args:
        memory: bytes for pages and states.
        states: bytes of one sequence's states.
        sequences: answers that are to run at once; fewer, where the user has not said how many.

    Raises:
        MemoryBudgetError: it does not hold those of one answer, or of as many as were asked for.
    """
    if not states:
        return StateBudget(0, sequences, 0)
    each = STATES_A_SEQUENCE * states
    fit = memory // 2 // each
    if fit < 1 or (config.max_sequences is not None and fit < config.max_sequences):
        asked = config.max_sequences or 1
        raise MemoryBudgetError(
            f"the recurrent states of {asked} answer{'s' if asked > 1 else ''} of {pair.name} take {asked * each} "
            f"bytes, more than half of the {memory} of KV memory: raise --kv-memory to at least {2 * asked * each}"
            + (", or lower --max-sequences" if asked > 1 else "")
        )
    sequences = min(sequences, fit)
    snapshots = min(DEFAULT_SNAPSHOTS * states, (memory - sequences * each) // 4) if config.prefix_cache else 0
    return StateBudget(each, sequences, snapshots)


def grow(pool: PagePool, scheduler: Scheduler[Sequence], pages_needed: Callable[[Sequence], int]) -> bool:
    """Take more memory where those who run and those who may begin want it, as long as there is some to be had.

    Nothing that the host has not read may be in flight.

    Args:
        pool: grows.
        scheduler: knows who runs and who waits; ask for its `admit` after this.
        pages_needed: as in `Scheduler.admit`.

    Returns:
        Whether it was more.
    """
    allocator = pool.allocator
    if allocator.pages_total == pool.pages_most:
        return False
    wanted = scheduler.pages_wanted(pages_needed, lambda sequence: len(sequence.copies))
    pages = pages_to_add(allocator.pages_total, pool.pages_most, allocator.pages_free, wanted)
    if pages:
        mx.synchronize()  # a commit is waited for
        pool.grow(pages)
    return pages > 0


def held_beside(pool: PagePool, running: Seq[Sequence], tail_slots: int) -> tuple[int, float]:
    """Bytes of the tails of running sequences, and the share of all held positions that no token uses.

    Args:
        pool: their pages.
        running: they hold pages.
        tail_slots: of a tail that is not made yet.
    """
    slots = sum(tail_slots if s.kv.target is None else s.kv.target.tail.slots for s in running)
    pages = len({page for s in running for page in s.kv.table.pages}) * pool.page_size
    # A page that several share is used once; what lies in no page yet is used by one.
    filled = pages + sum(max(0, s.kv.target_length - s.pages_held * pool.page_size) for s in running)
    held = pages + slots
    return slots * pool.bytes_per_page(pool.layers, 1), 1 - filled / held if held else 0.0


def spare_memory(pair: Pair) -> int:
    """Bytes that the pool may take unasked: a share of what the device recommends, less the weights."""
    info = mx.device_info()
    weights = pair.target.nbytes + (pair.draft.nbytes if pair.draft else 0)
    if "max_recommended_working_set_size" in info:
        return max(0, int(info["max_recommended_working_set_size"]) - weights) // 2
    return max(0, physical_memory() - weights) // 4


def physical_memory() -> int:
    """Bytes of memory that the device has."""
    found = mx.device_info().get("memory_size")
    return int(found) if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def report(metrics: Metrics, pair: Pair, context: int) -> MemoryReport:
    """What is held now, by which share in vain, and how long a context may become."""
    return MemoryReport(
        pages_total=metrics.pages_total,
        pages_used=metrics.pages_used,
        pages_cached=metrics.pages_cached,
        bytes=metrics.kv_bytes,
        budget=metrics.kv_budget,
        state_bytes=metrics.state_bytes,
        snapshot_bytes=metrics.snapshot_bytes,
        unused_fraction=metrics.unused_fraction,
        context=context,
        context_made_for=pair.target.max_context or DEFAULT_CONTEXT,
    )


def _pages(positions: int, config: EngineConfig) -> int:
    return -(-positions // config.page_size)


def _checked(kv_memory: int) -> int:
    """The memory that was asked for, where the machine has so much.

    Raises:
        MemoryBudgetError: it has not.
    """
    most = physical_memory()
    if kv_memory > most:
        raise MemoryBudgetError(f"kv-memory is {kv_memory} bytes, but this machine has {most}: lower it")
    return kv_memory
