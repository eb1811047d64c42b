"""The recurrence of linear attention, step by step: its definition in plain MLX, and our kernel for it on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from helix_mlx.kernels.cpu.library import CpuLibrary


@dataclass(frozen=True)
class ScanInputs:
    """What each step of a scan reads, float32.

    A state of `rows` by `keys` is decayed and written to, `s = s * g + k * u`, and read by `y = s . q`. The gated delta
    rule (Yang and others, arXiv 2412.06464) writes `u = (v - (s * g) . k) * beta`; without `beta`, as in Mamba-2 (Dao
    and Gu, arXiv 2405.21060), `u = v`.

    Args:
        q, k: [B, T, key_heads, keys].
        v: [B, T, heads, rows]; so many heads share each head of keys.
        g: [B, T, heads], or [B, T, heads, keys] with a factor a key.
        beta: [B, T, heads], or None.
    """

    q: mx.array
    k: mx.array
    v: mx.array
    g: mx.array
    beta: mx.array | None


def scan(inputs: ScanInputs, state: mx.array, library: CpuLibrary | None = None) -> tuple[mx.array, mx.array]:
    """All steps of a scan. A step's bits do not depend on the steps that come with it.

    Args:
        inputs: T steps.
        state: [B, heads, rows, keys] float32, before the first step.
        library: our kernels; None is the definition.

    Returns:
        y [B, T, heads, rows], and the state after the last step.
    """
    if library is not None:
        return library.module.scan(inputs.q, inputs.k, inputs.v, inputs.g, inputs.beta, state)
    outputs = []
    for step in range(inputs.k.shape[1]):
        state, output = _step(inputs, step, state)
        outputs.append(output)
    return mx.stack(outputs, axis=1), state


def scan_state(inputs: ScanInputs, state: mx.array, kept: mx.array, library: CpuLibrary | None = None) -> mx.array:
    """The state after the first `kept[b]` steps of each sequence b.

    Args:
        inputs: T steps; q is not looked at.
        state: [B, heads, rows, keys] float32, before the first step.
        kept: [B] int32, 0 to T.
        library: our kernels; None is the definition.
    """
    if library is not None:
        return library.module.scan_state(inputs.k, inputs.v, inputs.g, inputs.beta, state, kept)
    for step in range(inputs.k.shape[1]):
        following, _ = _step(inputs, step, state)
        state = where_kept(kept, step, following, state)
    return state


def where_kept(kept: mx.array, step: int, following: mx.array, state: mx.array) -> mx.array:
    """For each sequence, the state behind a step where that was kept, else the one before.

    Args:
        kept: [B] int32, steps.
        step: its number, from 0.
        following, state: [B, ...].
    """
    return mx.where((kept > step).reshape(-1, *[1] * (state.ndim - 1)), following, state)


def _step(inputs: ScanInputs, step: int, state: mx.array) -> tuple[mx.array, mx.array]:
    repeats = state.shape[1] // inputs.k.shape[2]
    q, k = (mx.repeat(each[:, step], repeats, axis=1)[..., None, :] for each in (inputs.q, inputs.k))
    g = inputs.g[:, step]
    state = state * (g[..., None, :] if g.ndim == 3 else g[..., None, None])
    written = inputs.v[:, step]
    if inputs.beta is not None:
        written = (written - (state * k).sum(axis=-1)) * inputs.beta[:, step][..., None]
    state = state + k * written[..., None]
    return state, (state * q).sum(axis=-1)
