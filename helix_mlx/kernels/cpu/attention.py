"""CPU attention that reads pages and tail in place, instead of the model's own attention.

The definition is `paged_attention.paged_attention`; the fast form is in `cpu/attention_*.cpp`. It needs the queries
too, so it cannot hide behind a cache's `update_and_fetch`: that returns where the keys and values lie, and the name
`scaled_dot_product_attention` in the modules of the model's layers takes it from there.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from helix_mlx.kernels.cpu.library import CpuLibrary
from helix_mlx.kernels.functions import give_functions, is_mlx_lms, place, rebuilt
from helix_mlx.kernels.paged_attention import Stored

FAMILIES = frozenset(
    {
        "cohere2",
        "gemma",
        "gemma3_text",
        "gpt_oss",
        "granite",
        "llama",
        "mixtral",
        "olmo2",
        "phi3",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        "smollm3",
        "starcoder2",
    }
)
"""Modules of mlx-lm whose models hand keys, values and mask untouched from the cache to their attention, and which
tests/kernels/test_cpu_families.py has shown to say the same with the kernel. mlx-lm runs mistral as llama."""

_NAME = "scaled_dot_product_attention"


def paged_attention(
    library: CpuLibrary,
    queries: mx.array,
    stored: Stored,
    *,
    scale: float,
    window: int | None = None,
    sinks: mx.array | None = None,
) -> mx.array:
    """The fast form of `paged_attention.paged_attention`: float32 arithmetic, one pass over keys and values.

    A row's result is the same, bit by bit, whatever rows and sequences are asked for with it, whatever the page
    size, wherever the tail begins, and whatever the number of threads.

    Args:
        library: the compiled library.
        queries: [B, query_heads, M, dim], float32, float16 or bfloat16, like pages and tail.
        stored: the keys and values of one layer.
        scale, window, sinks: as in the definition.

    Returns:
        [B, query_heads, M, value_dim], of the type of the queries.

    Raises:
        ValueError: the shapes or types do not fit each other.
    """
    keys, values = zip(stored.pages, stored.tail, strict=True)
    return library.module.paged_attention(
        queries, keys[0], values[0], stored.block_table, stored.committed, keys[1], values[1], stored.lengths,
        scale, window, sinks,
    )  # fmt: skip


@dataclass(frozen=True)
class PagedKVRef:
    """Returned by a cache instead of gathered keys and values: where they are stored, and the kernel to read them."""

    stored: Stored
    library: CpuLibrary


@dataclass(frozen=True)
class WindowMask:
    """Stands for the mask of a pass: `window` positions a row at most, its own included; None is all before it."""

    window: int | None


def install(model: object) -> bool:
    """Make a model's attention accept `PagedKVRef` keys and values; anything else works as before.

    mlx-lm's modules stay as they are, and so does every other model that uses them. Done twice, it is done once.

    Args:
        model: a loaded model of mlx-lm.

    Returns:
        Whether its caches may return `PagedKVRef`: no where no test has shown the model's family to say the same, or
        where the family does not take it in the mlx-lm that is installed.
    """
    if not isinstance(model, Module) or place(type(model))[0] not in FAMILIES:
        return False
    give_functions(model, _functions)
    return _takes_it(model)


def _functions(kind: type) -> dict[str, Any] | None:
    """A class's functions with our attention; None where it has none under that name."""
    original = getattr(sys.modules[kind.__module__], _NAME, None) if is_mlx_lms(kind) else None
    return None if original is None else rebuilt(kind, {_NAME: _reading_in_place(original)})


def _takes_it(model: Module) -> bool:
    """Whether every layer reads in place, found with a pass that is never evaluated."""
    probes = [_Probe() for _ in model.layers]
    try:
        model(mx.zeros((1, 2), mx.int32), cache=probes)
    except (TypeError, ValueError, AttributeError, AssertionError):
        return False
    return all(probe.asked == 1 for probe in probes)


class _Probe:
    """A layer's cache and library in one, which counts the attention calls."""

    def __init__(self) -> None:
        self.offset = mx.zeros((1,), mx.int32)
        self.asked = 0

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[PagedKVRef, PagedKVRef]:
        rows = keys.transpose(0, 2, 1, 3), values.transpose(0, 2, 1, 3)
        stored = Stored(rows, mx.zeros((1, 1), mx.int32), self.offset, rows, self.offset)
        found = PagedKVRef(stored, CpuLibrary(self, Path()))
        return found, found

    def make_mask(self, N: int, window_size: int | None = None, return_array: bool = False) -> WindowMask:  # noqa: N803
        return WindowMask(window_size)

    def paged_attention(self, queries: mx.array, key_pages: mx.array, value_pages: mx.array, *rest: object) -> mx.array:
        self.asked += 1
        return mx.zeros((*queries.shape[:3], value_pages.shape[3]), queries.dtype)


def _reading_in_place(original: Callable[..., mx.array]) -> Callable[..., mx.array]:
    @functools.wraps(original)
    def attention(
        queries: mx.array, keys: Any, values: Any, cache: object, scale: float, mask: Any, sinks: mx.array | None = None
    ) -> mx.array:
        if not isinstance(keys, PagedKVRef):
            return original(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)
        assert isinstance(mask, WindowMask), "this model makes masks of its own"
        return paged_attention(keys.library, queries, keys.stored, scale=scale, window=mask.window, sinks=sinks)

    return attention
