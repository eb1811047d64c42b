"""Checks whether an mlx-lm model can run on pages, and finds what its layers cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

from helix_mlx.errors import ModelError
from helix_mlx.models.third_party import one_line
from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.page_pool import TARGET, LayerShape, PagePool
from helix_mlx.paging.paged_cache import PagedKV

_GROUPED_MASKS = frozenset({"gemma2"})
"""Families that do their own attention with grouped query heads on an axis of their own."""
_NOT_YET = {
    "ArraysCache": "recurrent layers are",
    "CacheList": "several caches in one layer are",
    "ChunkedKVCache": "attention in chunks is",
}
"""What a layer does, by the cache of mlx-lm that it keeps."""
_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""The exceptions of a model that cannot do a pass."""

_TOKENS = (1, 2, 3, 4, 5)
"""Read by `check_rows`; every vocabulary has them."""
_TOLERANCE = {mx.float32: 0.01}
"""How far apart logits may be, as a share of their deviation from their mean: rounding stays far below, and a mask or a
position that is wrong comes far above. Half precision and a mixture of experts may round to another expert."""
_HALF_TOLERANCE = 0.25


def probe(model: Any, config: dict[str, Any]) -> tuple[tuple[LayerShape, ...], int]:
    """What each layer keeps for a position, and the width of the logits, read off one pass that is never evaluated.

    Raises:
        ModelError: a layer keeps something else than keys and values, or the model cannot run over pages.
    """
    kind = _kind(config)
    for name, module in model.named_modules():
        if type(module).__name__ == "DynamicNTKScalingRoPE":  # by name: older mlx-lm has no such class
            raise ModelError(
                f"{name} depends on the length of the text, so drafts cannot be rolled back; choose another model"
            )
    windows = [_window(index, cache, kind) for index, cache in enumerate(make_prompt_cache(model))]
    probes = [_ProbeCache() for _ in windows]
    try:
        logits = model(mx.zeros((2, 1), mx.int32), cache=probes)
    except _FAILURES as error:
        raise ModelError(f"{_why_not(model, kind, error)}; choose another model") from error
    shapes = []
    for index, (probed, window) in enumerate(zip(probes, windows, strict=True)):
        if probed.shape is None:
            raise ModelError(
                f"layer {index} of {kind} has no keys and values that Helix can page; choose another model"
            )
        if probed.windows and probed.windows.isdisjoint({window, None}):
            looks = " or ".join(map(str, probed.windows))
            raise ModelError(
                f"layer {index} of {kind} caches {window or 'all'} positions but attends to {looks}: one pass over "
                "several tokens would differ from single steps, so drafts cannot be verified; choose another model"
            )
        shapes.append(replace(probed.shape, window=window, mask_rank=_mask_rank(config)))
    return tuple(shapes), int(logits.shape[-1])


def _kind(config: dict[str, Any]) -> str:
    return f"model type {config.get('model_type')!r}"


def _window(index: int, cache: object, kind: str) -> int | None:
    if type(cache) is KVCache:
        return None
    if type(cache) is RotatingKVCache and cache.keep == 0:
        return int(cache.max_size)
    name = type(cache).__name__
    why = f"{_NOT_YET[name]} not supported yet" if name in _NOT_YET else "Helix cannot roll it back yet"
    raise ModelError(f"layer {index} of {kind} uses a cache of type {name}: {why}; choose another model")


def _why_not(model: Any, kind: str, error: Exception) -> str:
    """Why a ragged pass failed: by what it asks of a cache, by the raggedness, or for a reason of its own."""
    if isinstance(error, AttributeError) and isinstance(error.obj, _ProbeCache):
        return f"{kind} reads {error.name} of its cache, which Helix does not support yet"
    try:
        model(mx.zeros((1, 1), mx.int32), cache=make_prompt_cache(model))
    except _FAILURES as alone:
        return f"{kind} cannot run on this device ({one_line(alone)})"
    return f"{kind} cannot run sequences of different lengths in one batch ({one_line(error)})"


def _mask_rank(config: dict[str, Any]) -> int:
    grouped = config.get("num_attention_heads") != config.get("num_key_value_heads")
    return 5 if config.get("model_type") in _GROUPED_MASKS and grouped else 4


class _ProbeCache:
    """Notes the shapes of what a layer stores, and the windows that its model asks masks for; None is the layer's."""

    def __init__(self) -> None:
        self.offset = mx.array([3, 5], mx.int32)
        self.shape: LayerShape | None = None
        self.windows: set[int | None] = set()

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        (_, key_heads, _, key_dim), (_, value_heads, _, value_dim) = keys.shape, values.shape
        self.shape = LayerShape(key_heads, key_dim, value_heads, value_dim, keys.dtype)
        return keys, values

    def make_mask(self, N: int, window_size: int | None = None, return_array: bool = False) -> mx.array | None:  # noqa: N803
        self.windows.add(window_size)
        return mx.ones((2, 1, N, N), mx.bool_) if return_array else None


def check_rows(model: Any, layers: Sequence[LayerShape], config: dict[str, Any]) -> None:
    """Check that a model gives the same logits for several rows over pages as for single steps on its own.

    Fifteen rows in four passes: two sequences that begin alike read three tokens, one of them is rolled back by two,
    and both read two more from where they are. mlx-lm's own caches read the same tokens, the last of them in a step.

    Args:
        model: of mlx-lm, in memory.
        layers: what `probe` has found.
        config: the model's.

    Raises:
        ModelError: it does not, or it cannot run on this device.
    """
    kind, caches = _kind(config), make_prompt_cache(model)
    text = mx.array([_TOKENS], mx.int32)
    where = "on this device"
    try:
        rows = model(text[:, :4], cache=caches)
        plain = mx.concatenate([rows, model(text[:, 4:], cache=caches)], axis=1)[:, 1:]
        mx.eval(plain)
        where = "over Helix's pages"
        apart = _distance(_paged_logits(model, layers, text), plain)
    except _FAILURES as error:
        raise ModelError(f"{kind} cannot run {where} ({one_line(error)}); choose another model") from error
    if not apart <= _TOLERANCE.get(plain.dtype, _HALF_TOLERANCE):  # NaN is not, either
        kept = ", ".join(f"{n} {name}" for name, n in Counter(type(each).__name__ for each in caches).items())
        raise ModelError(
            f"{kind} gives other logits in one pass over several tokens than in single steps (by {apart:.2g} of "
            f"their standard deviation; caches: {kept}), so drafts cannot be verified; choose another model"
        )


def _paged_logits(model: Any, layers: Sequence[LayerShape], text: mx.array) -> mx.array:
    """Logits of the text's last four positions, [1, 4, V], by two sequences that are at different ones of them."""
    pool = PagePool([layers], page_size=8, n_pages=1)
    both = PagedKV.concatenate([PagedKV.empty(pool, TARGET, BlockTable(pool.allocator), 8) for _ in range(2)])
    begun = mx.concatenate([text[:, :3]] * 2)
    mx.eval(model(begun, cache=both.caches(mx.array([0, 0], mx.int32), 3)))
    rows = mx.concatenate([text[:, 1:3], text[:, 3:]])
    return model(rows, cache=both.caches(mx.array([1, 3], mx.int32), 5)).reshape(1, 4, -1)


def _distance(paged: mx.array, plain: mx.array) -> float:
    """The largest of the rows' mean distances, as a share of a row's deviation; what is no number in both is equal."""
    paged, plain = paged.astype(mx.float32), plain.astype(mx.float32)
    same = (paged == plain) | (mx.isnan(paged) & mx.isnan(plain))
    equal = same & ~mx.isfinite(plain)  # such as ids that the model never says
    paged, plain = mx.where(equal, 0, paged), mx.where(equal, 0, plain)
    return float(mx.max(mx.sqrt(mx.mean((paged - plain) ** 2, axis=-1) / mx.maximum(mx.var(plain, axis=-1), 1e-12))))
