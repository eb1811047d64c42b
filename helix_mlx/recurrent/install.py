"""Makes a model's recurrent layers record their rows, where rows may be taken back.

A layer of mlx-lm keeps its state in arrays of its cache. Where a pass is recorded, the cache gives the layer a
`StateRef` in their place, and the functions that the layer hands it to take it from there. These functions are put
under their names for the layers of this model alone; mlx-lm's modules and classes stay as they are.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import ArraysCache

from helix_mlx.kernels.cpu.library import CpuLibrary
from helix_mlx.kernels.functions import StandIn, give_functions, own_class, place, rebuilt
from helix_mlx.recurrent.cache import RecurrentCache, StateRef
from helix_mlx.recurrent.records import ValueRecord
from helix_mlx.recurrent.registry import LAYERS, By, ConvolutionCall, Recurrence
from helix_mlx.recurrent.scans import Scan


def install(model: object, library: CpuLibrary | None = None) -> By | None:
    """Let a model's recurrent layers take `RecurrentCache`; with any other cache they go on as before.

    Layers that Helix does not know are left alone.

    Args:
        model: of mlx-lm.
        library: our kernels, where they are to do the scans.

    Returns:
        How they are taken back; None where there are none that Helix knows.
    """
    if not isinstance(model, Module):
        return None
    kinds = {own_class(type(module)) for module in model.modules()}
    known = {kind: found for kind in kinds if (found := LAYERS.get(place(kind))) is not None}
    # Done again, it is done for the kernels.
    again = library is not None
    give_functions(model, lambda kind: _recording(kind, known[kind], library) if kind in known else None, again=again)
    return next(iter(known.values())).by if known else None


def _recording(kind: Any, recurrence: Recurrence, library: CpuLibrary | None) -> dict[str, Any]:
    """The functions of a layer's class whose state can be taken back."""
    if recurrence.by is By.ROWS:
        return {"__call__": _row_by_row(kind.__call__)}
    names: dict[str, Any] = {"mx": StandIn(mx, concatenate=_concatenate)}
    for name, call in recurrence.scans.items():
        names[name] = _scanning(Scan(kind.__call__.__globals__[name], call, library))
    body = rebuilt(kind, names)
    for method, convolution in recurrence.convolutions.items():
        body[method] = _convolving(body[method], convolution)
    return body


def _concatenate(arrays: list[Any], axis: int = 0, **more: Any) -> mx.array:
    """`mx.concatenate` for a layer whose convolution may be given a `StateRef` in the place of the inputs before."""
    first = arrays[0]
    if isinstance(first, StateRef):
        (rows,) = arrays[1:]
        return first.extended(rows, axis)
    return mx.concatenate(arrays, axis=axis, **more)


def _scanning(scan: Scan) -> Callable[..., tuple[mx.array, mx.array]]:
    """A scan function that has the bits of single steps, and records its rows where it is given a `StateRef`."""
    signature = inspect.signature(scan.function)

    @functools.wraps(scan.function)
    def scanned(*args: Any, **kwargs: Any) -> tuple[mx.array, mx.array]:
        bound = signature.bind(*args, **kwargs).arguments
        state = bound.pop(scan.call.state, None)
        return state.scanned(scan, bound) if isinstance(state, StateRef) else scan(bound, state)

    return scanned


def _convolving(convolution: Callable[..., mx.array], call: ConvolutionCall) -> Callable[..., mx.array]:
    """A layer's method that records its rows where it is given a `StateRef` for the inputs before them."""
    signature = inspect.signature(convolution)

    @functools.wraps(convolution)
    def convolved(*args: Any, **kwargs: Any) -> mx.array:
        bound = signature.bind(*args, **kwargs)
        state = bound.arguments.get(call.state)
        if isinstance(state, StateRef):
            state.extended(bound.arguments[call.rows], call.axis)
            bound.arguments[call.state] = state.array
        return convolution(*bound.args, **bound.kwargs)

    return convolved


def _row_by_row(original: Callable[..., Any]) -> Callable[..., Any]:
    """A layer that reads recorded rows one by one, and so knows its state after each of them."""

    @functools.wraps(original)
    def called(self: Module, *args: Any, **kwargs: Any) -> Any:
        every = [*args, *kwargs.values()]
        cache = next((each for each in every if isinstance(each, RecurrentCache)), None)
        if cache is None or (cache.records is None and not any(cache.fresh)):
            return original(self, *args, **kwargs)
        batch, rows = next(each for each in every if isinstance(each, mx.array)).shape[:2]

        def at(value: Any, b: slice, t: slice, state: ArraysCache) -> Any:
            if value is cache:
                return state
            return value[b, t] if isinstance(value, mx.array) and value.shape[:2] == (batch, rows) else value

        def one(t: slice, b: slice, state: ArraysCache) -> Any:
            return original(
                self, *(at(a, b, t, state) for a in args), **{k: at(v, b, t, state) for k, v in kwargs.items()}
            )

        outputs = []
        for row in range(rows):
            t = slice(row, row + 1)
            outputs.append(_step(cache, functools.partial(one, t), first=row == 0))
        return _joined(outputs, axis=1)

    return called


def _step(cache: RecurrentCache, one: Callable[[slice, ArraysCache], Any], first: bool) -> Any:
    """One row of all sequences. A sequence that has read nothing has no arrays, which some layers tell from zeros."""
    before = list(cache.cache)
    alone = first and any(cache.fresh)
    parts = [slice(b, b + 1) for b in range(len(cache.fresh))] if alone else [slice(None)]
    outputs: list[Any] = []
    states: list[list[Any]] = []
    for part in parts:
        state = ArraysCache(len(before))
        if not (alone and cache.fresh[part.start]):
            arrays: list[Any] = [None if a is None else a[part] if alone else a for a in before]
            state.cache = arrays
        outputs.append(one(part, state))
        states.append(state.cache)
    for index, array in enumerate(before):
        after: list[Any] = [state[index] for state in states]
        if any(a is None for a in after) or (not alone and after[0] is array):
            continue  # another part of the layer writes it
        value = after[0] if len(after) == 1 else mx.concatenate(after)
        if cache.records is not None:
            assert array is not None
            record = cache.records.setdefault(index, ValueRecord(array))
            assert isinstance(record, ValueRecord)
            record.values.append(value)
        cache.cache[index] = value
    return _joined(outputs, axis=0)


def _joined(outputs: list[Any], axis: int) -> Any:
    if len(outputs) == 1:
        return outputs[0]
    if isinstance(outputs[0], tuple):
        return tuple(mx.concatenate(list(each), axis=axis) for each in zip(*outputs, strict=True))
    return mx.concatenate(outputs, axis=axis)
