"""Positions of a pass's rows where each sequence has its own, for functions of mlx-lm that ask for those of one."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import mlx.core as mx

from helix_mlx.kernels.functions import StandIn, renamed


def is_ragged(offset: object) -> bool:
    """Whether a cache's offset is a position a sequence, [B] int32, as Helix's are; that of mlx-lm's is a number."""
    return isinstance(offset, mx.array)


def positions(offset: mx.array, count: int) -> mx.array:
    """Those of `count` rows a sequence from `offset` [B] on: [B, count]."""
    return offset[:, None] + mx.arange(count)[None]


def with_rows(function: FunctionType, rows: mx.array) -> Callable[..., Any]:
    """A function that takes `mx.arange(FIRST, LAST)` for its rows' positions, with these.

    Args:
        function: of mlx-lm; it makes a column of them, to lie beside heads and keys.
        rows: [B, M].
    """
    column = rows[..., None]  # its own [:, None] makes [B, 1, M, 1] of it

    def arange(*bounds: Any, **more: Any) -> mx.array:
        return column if len(bounds) == 2 else mx.arange(*bounds, **more)

    return renamed(function, {"mx": StandIn(mx, arange=arange)})
