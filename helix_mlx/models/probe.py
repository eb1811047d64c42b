"""Checks whether an mlx-lm model can run on pages, and finds what its layers cache."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    RotatingKVCache,
    make_prompt_cache,
)

from helix_mlx.errors import ModelError
from helix_mlx.models.families.registry import adapt
from helix_mlx.models.third_party import one_line
from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.page_pool import TARGET, LayerShape, PagePool
from helix_mlx.paging.paged_cache import PagedKV
from helix_mlx.recurrent.install import install
from helix_mlx.recurrent.layout import CacheLayout, CacheSlot, KVSlot, ListSlot, StateShape, StateSlot
from helix_mlx.recurrent.registry import By

_GROUPED_MASKS = frozenset({"gemma2"})
"""Families that do their own attention with grouped query heads on an axis of their own."""
_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""The exceptions of a model that cannot do a pass."""

_PROBED_ROWS = 16
"""Enough for the inputs that any short convolution keeps."""
_TOKENS = (1, 2, 3, 4, 5)
"""Read by `check_rows`; every vocabulary has them."""
_TOLERANCE = {mx.float32: 0.01}
"""How far apart logits may be, as a share of their deviation from their mean: rounding stays far below, and a mask or a
position that is wrong comes far above. Half precision and a mixture of experts may round to another expert."""
_HALF_TOLERANCE = 0.25


@dataclass(frozen=True)
class Probed:
    """What a model keeps for a position, and for a sequence, and the width of its logits."""

    layers: tuple[LayerShape, ...]
    layout: CacheLayout
    vocab_size: int


def probe(model: Any, config: dict[str, Any]) -> Probed:
    """What a model keeps, read off one pass that is never evaluated. Its recurrent layers can be taken back after it.

    Raises:
        ModelError: a layer keeps something that Helix does not know, or the model cannot run over pages.
    """
    kind = _kind(config)
    for name, module in model.named_modules():
        if type(module).__name__ == "DynamicNTKScalingRoPE":  # by name: older mlx-lm has no such class
            raise ModelError(
                f"{name} depends on the length of the text, so drafts cannot be rolled back; choose another model"
            )
    adapt(model)
    found = _Probes(kind)
    caches = [found.made(index, cache) for index, cache in enumerate(make_prompt_cache(model))]
    try:
        logits = model(mx.zeros((2, _PROBED_ROWS if found.states else 1), mx.int32), cache=caches)
    except _FAILURES as error:
        raise ModelError(f"{_why_not(model, kind, error)}; choose another model") from error
    shapes = []
    for probed in found.kvs:
        if probed.shape is None:
            raise ModelError(
                f"layer {probed.index} of {kind} has no keys and values that Helix can page; choose another model"
            )
        if probed.windows and probed.windows.isdisjoint({probed.window, None}):
            looks = " or ".join(map(str, probed.windows))
            raise ModelError(
                f"layer {probed.index} of {kind} caches {probed.window or 'all'} positions but attends to {looks}: "
                "one pass over several tokens would differ from single steps, so drafts cannot be verified; "
                "choose another model"
            )
        shapes.append(replace(probed.shape, window=probed.window, mask_rank=_mask_rank(config)))
    known = install(model)
    states = []
    for index, state in found.states:
        if known is None or any(array is None or array.shape[:1] != (2,) for array in state.cache):
            raise ModelError(
                f"layer {index} of {kind} has a recurrent state (ArraysCache) of a kind that Helix cannot roll back; "
                "choose another model"
            )
        arrays: list[Any] = state.cache
        states.append(StateShape(tuple(a.shape[1:] for a in arrays), tuple(a.dtype for a in arrays), known is By.ROWS))
    return Probed(tuple(shapes), CacheLayout(tuple(found.slots), tuple(states)), int(logits.shape[-1]))


class _Probes:
    """Cache objects that note what a model does with them, and what each of them stands for."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.kvs: list[ProbeCache] = []
        self.states: list[tuple[int, ArraysCache]] = []
        self.slots: list[CacheSlot] = []

    def made(self, index: int, cache: object) -> Any:
        """In the place of a layer's cache."""
        made, slot = self._made(index, cache)
        self.slots.append(slot)
        return made

    def _made(self, index: int, cache: object) -> tuple[Any, CacheSlot]:
        if type(cache) is CacheList:
            parts = [self._made(index, part) for part in cache.caches]
            return tuple(made for made, _ in parts), ListSlot(tuple(slot for _, slot in parts))
        if type(cache) is ArraysCache:
            self.states.append((index, ArraysCache(len(cache.cache))))
            return self.states[-1][1], StateSlot(len(self.states) - 1)
        self.kvs.append(ProbeCache(index, _window(index, cache, self._kind)))
        return self.kvs[-1], KVSlot(len(self.kvs) - 1)


def _kind(config: dict[str, Any]) -> str:
    return f"model type {config.get('model_type')!r}"


def _window(index: int, cache: object, kind: str) -> int | None:
    if type(cache) in (KVCache, ChunkedKVCache):  # which positions of the chunks a row sees, says the mask
        return None
    if type(cache) is RotatingKVCache and cache.keep == 0:
        return int(cache.max_size)
    raise ModelError(
        f"layer {index} of {kind} uses a cache of type {type(cache).__name__}: Helix cannot roll it back; "
        "choose another model"
    )


def _why_not(model: Any, kind: str, error: Exception) -> str:
    """Why a ragged pass failed: by what it asks of a cache, by the raggedness, or for a reason of its own."""
    if isinstance(error, AttributeError) and isinstance(error.obj, ProbeCache):
        return f"{kind} reads {error.name} of its cache, which Helix does not support yet"
    try:
        model(mx.zeros((1, 1), mx.int32), cache=make_prompt_cache(model))
    except _FAILURES as alone:
        return f"{kind} cannot run on this device ({one_line(alone)})"
    return f"{kind} cannot run sequences of different lengths in one batch ({one_line(error)})"


def _mask_rank(config: dict[str, Any]) -> int:
    grouped = config.get("num_attention_heads") != config.get("num_key_value_heads")
    return 5 if config.get("model_type") in _GROUPED_MASKS and grouped else 4


class ProbeCache:
    """Notes the shapes of what a layer stores, and the windows that its model asks masks for; None is the layer's."""

    def __init__(self, index: int, window: int | None) -> None:
        self.index = index
        self.window = window
        self.offset = mx.array([3, 5], mx.int32)
        self.shape: LayerShape | None = None
        self.windows: set[int | None] = set()
        self._held: tuple[mx.array, mx.array] | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """As mlx-lm's; what is stored is what comes back."""
        (_, key_heads, _, key_dim), (_, value_heads, _, value_dim) = keys.shape, values.shape
        shape = LayerShape(key_heads, key_dim, value_heads, value_dim, keys.dtype)
        self.shape = shape if value_dim else _keys_only(shape)
        self._held = keys, values
        return keys, values

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """What is stored."""
        assert self._held is not None, "nothing is stored yet"
        return self._held

    @property
    def keys(self) -> mx.array:
        """What is stored."""
        return self.keys_and_values()[0]

    @keys.setter
    def keys(self, _: mx.array) -> None: ...

    @property
    def values(self) -> mx.array:
        """What is stored."""
        return self.keys_and_values()[1]

    @values.setter
    def values(self, _: mx.array) -> None:
        """They are nothing that the model reads: DeepSeek's index stores its keys twice, and has only these."""
        assert self.shape is not None, "nothing is stored yet"
        self.shape = _keys_only(self.shape)

    def make_mask(self, N: int, window_size: int | None = None, return_array: bool = False) -> mx.array | None:  # noqa: N803
        """A mask of that shape, where an array is asked for."""
        self.windows.add(window_size)
        return mx.ones((2, 1, N, N), mx.bool_) if return_array else None


def _keys_only(shape: LayerShape) -> LayerShape:
    return replace(shape, value_heads=shape.key_heads, value_dim=1, keys_only=True)


def check_rows(model: Any, probed: Probed, config: dict[str, Any]) -> None:
    """See whether a model says the same in passes of several rows over pages as it says by itself, step by step.

    Fifteen rows in five passes: two sequences that begin alike read one token and two more, of which one of them takes
    both back, and both read two from where they are. mlx-lm's own caches read the same tokens, the last of them in a
    step.

    Args:
        model: of mlx-lm, in memory.
        probed: what `probe` has found.
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
        apart = _distance(_paged_logits(model, probed, text), plain)
    except _FAILURES as error:
        raise ModelError(f"{kind} cannot run {where} ({one_line(error)}); choose another model") from error
    if not apart <= _TOLERANCE.get(plain.dtype, _HALF_TOLERANCE):  # NaN is not, either
        kept = ", ".join(f"{n} {name}" for name, n in Counter(type(each).__name__ for each in caches).items())
        raise ModelError(
            f"{kind} gives other logits in one pass over several tokens than in single steps (by {apart:.2g} of "
            f"their standard deviation; caches: {kept}), so drafts cannot be verified; choose another model"
        )


def _paged_logits(model: Any, probed: Probed, text: mx.array) -> mx.array:
    """Logits of the text's last four positions, [1, 4, V], by two sequences that are at different ones of them."""
    pool = PagePool([probed.layers], page_size=8, n_pages=1, layouts=[probed.layout])
    both = PagedKV.concatenate([PagedKV.empty(pool, TARGET, BlockTable(pool.allocator), 8) for _ in range(2)])
    begun = mx.concatenate([text[:, :3]] * 2)
    mx.eval(model(begun[:, :1], cache=both.caches(mx.array([0, 0], mx.int32), 1)))
    mx.eval(model(begun[:, 1:], cache=both.caches(mx.array([1, 1], mx.int32), 3, record=True)))
    both.advance(mx.array([0, 2], mx.int32))
    rows = mx.concatenate([text[:, 1:3], text[:, 3:]])
    return model(rows, cache=both.caches(mx.array([1, 3], mx.int32), 5)).reshape(1, 4, -1)


def _distance(paged: mx.array, plain: mx.array) -> float:
    """The largest of the rows' mean distances, as a share of a row's deviation; what is no number in both is equal."""
    paged, plain = paged.astype(mx.float32), plain.astype(mx.float32)
    same = (paged == plain) | (mx.isnan(paged) & mx.isnan(plain))
    equal = same & ~mx.isfinite(plain)  # such as ids that the model never says
    paged, plain = mx.where(equal, 0, paged), mx.where(equal, 0, plain)
    return float(mx.max(mx.sqrt(mx.mean((paged - plain) ** 2, axis=-1) / mx.maximum(mx.var(plain, axis=-1), 1e-12))))
