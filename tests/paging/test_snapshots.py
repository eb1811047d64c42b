"""Snapshots of recurrent states: found by digest, within their bytes, the least recently used out first."""

from __future__ import annotations

import mlx.core as mx
import pytest

from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.page_allocator import PageAllocator
from helix_mlx.paging.page_pool import DRAFT, TARGET
from helix_mlx.paging.prefix_cache import PrefixCache
from helix_mlx.paging.snapshots import Snapshots
from helix_mlx.recurrent.layout import StateShape
from helix_mlx.recurrent.states import RecurrentStates

SHAPE = StateShape(((2, 3), (4,)), (mx.float32, mx.float32))
PAGE = 4


def states(value: float) -> RecurrentStates:
    arrays: list[list[mx.array | None]] = [[mx.full((1, 2, 3), value), mx.full((1, 4), value)]]
    return RecurrentStates([SHAPE], arrays, [False])


def value_of(found: RecurrentStates) -> float:
    return found.arrays[0][0, 0, 0].item()  # type: ignore[return-value]


def test_the_bytes_are_those_of_the_arrays() -> None:
    assert states(1).nbytes == SHAPE.nbytes == sum(array.nbytes for array in states(1).arrays)


def test_the_least_recently_used_goes_first() -> None:
    snapshots = Snapshots(2 * SHAPE.nbytes)
    for number in range(2):
        assert snapshots.put(TARGET, bytes([number]), states(number))
    assert value_of(snapshots.get(TARGET, b"\0")) == 0
    snapshots.put(TARGET, b"\2", states(2))
    assert [snapshots.deepest(TARGET, [bytes([n])]) for n in range(3)] == [1, 0, 1]
    assert snapshots.nbytes == 2 * SHAPE.nbytes
    snapshots.put(TARGET, b"\2", states(3))
    assert len(snapshots) == 2
    assert value_of(snapshots.get(TARGET, b"\2")) == 3
    snapshots.clear()
    assert (len(snapshots), snapshots.nbytes) == (0, 0)


def test_none_is_kept_where_one_is_too_large() -> None:
    assert not Snapshots(SHAPE.nbytes - 1).put(TARGET, b"a", states(1))


@pytest.mark.parametrize("recurrent", [True, False])
def test_pages_help_no_further_than_a_snapshot(recurrent: bool) -> None:
    allocator, snapshots = PageAllocator(8), Snapshots(4 * SHAPE.nbytes)
    cache = PrefixCache(allocator, PAGE, b"model", snapshots=snapshots, recurrent=recurrent)
    tokens = list(range(16))
    table = BlockTable(allocator)
    table.grow(4)
    cache.add(table, tokens, 4)
    snapshots.put(TARGET, table.digests[1], states(8))
    snapshots.put(DRAFT, table.digests[3], states(9))
    found = cache.match(tokens)
    assert len(found.pages) == (2 if recurrent else 4)
    assert found.known == (4 if recurrent else 0)
    table.truncate(0)
    for _ in range(8):  # all pages are wanted by somebody else
        allocator.allocate()
    assert len(snapshots) == 0
