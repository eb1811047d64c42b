"""Scan functions of mlx-lm's layers: called so that a row has the bits of a single step, or done by our kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx_lm.models.gated_delta import compute_g, compute_lower_bound_g
from mlx_lm.models.ssm import compute_dt

from helix_mlx.kernels.cpu.library import CpuLibrary
from helix_mlx.kernels.device import on_cpu
from helix_mlx.kernels.linear_scan import ScanInputs, scan, scan_state, where_kept
from helix_mlx.request import MAX_DRAFT_TOKENS

CHUNKED = 2 * (MAX_DRAFT_TOKENS + 1)
"""Rows, more than any cycle has, beyond which a GPU reads a prompt in mlx-lm's own chunks."""
Arguments = Mapping[str, Any]
"""Of a call of a scan function, by the names of its parameters, without the state."""


@dataclass(frozen=True)
class ScanCall:
    """How a scan function is called, and how our kernel does the same.

    Args:
        state: the name of its parameter for the state.
        rows: the names of its parameters with a row for each token, and the axes of these rows.
        outputs: the axis of the rows of what it returns.
        stepwise: whether it has to be called row by row for the bits of single steps; else it takes a mask [B, M] of
            the rows that count.
        inputs: the same scan for our kernel; None where it knows no such thing.
        finish: what is left to do with the outputs of our kernel.
    """

    state: str
    rows: Mapping[str, int] = field(hash=False)
    outputs: int = 1
    stepwise: bool = False
    inputs: Callable[[Arguments], ScanInputs] | None = None
    finish: Callable[[Arguments, mx.array], mx.array] | None = None


@dataclass(frozen=True)
class Scan:
    """A function of mlx-lm that reads rows into a state and returns `(outputs, state)`.

    Args:
        function: it.
        call: how it is called.
        library: our kernels, where they are to do it.
    """

    function: Callable[..., tuple[mx.array, mx.array]]
    call: ScanCall
    library: CpuLibrary | None = None

    def __call__(self, arguments: Arguments, state: mx.array | None) -> tuple[mx.array, mx.array]:
        """The outputs of all rows, and the state behind the last, with the bits of single steps."""
        if (inputs := self._inputs(arguments, state)) is not None:
            assert state is not None
            outputs, state = scan(inputs, state, self.library)
            return (outputs if self.call.finish is None else self.call.finish(arguments, outputs)), state
        count = self._count(arguments)
        # A GPU's text is its own up to ties anyway, and would take a dispatch a token of a prompt and layer.
        in_chunks = count > CHUNKED and not on_cpu()
        if not self.call.stepwise or count == 1 or in_chunks:
            return self._run(arguments, state)
        parts = []
        for row in range(count):
            output, state = self._run(self._row(arguments, row), state)
            parts.append(output)
        assert state is not None
        return mx.concatenate(parts, axis=self.call.outputs), state

    def advance(self, calls: Sequence[Arguments], state: mx.array, kept: mx.array) -> mx.array:
        """The state after the first `kept[b]` rows of these calls, for each sequence b.

        Args:
            calls: one after the other.
            state: before the first of their rows.
            kept: [B] int32.
        """
        arguments = dict(calls[0])
        for name, axis in self.call.rows.items() if len(calls) > 1 else ():
            arguments[name] = mx.concatenate([call[name] for call in calls], axis=axis)
        if (inputs := self._inputs(arguments, state)) is not None:
            return scan_state(inputs, state, kept, self.library)
        rows = self._count(arguments)
        if not self.call.stepwise:
            return self._run({**arguments, "mask": mx.arange(rows)[None] < kept[:, None]}, state)[1]
        for row in range(rows):
            _, following = self._run(self._row(arguments, row), state)
            state = where_kept(kept, row, following, state)
        return state

    def _inputs(self, arguments: Arguments, state: mx.array | None) -> ScanInputs | None:
        """For our kernel, which is in float32; None where it does not do this."""
        if self.library is None or self.call.inputs is None or state is None or state.dtype != mx.float32:
            return None
        if any(arguments[name].dtype != mx.float32 for name in self.call.rows):
            return None
        return self.call.inputs(arguments)

    def _count(self, arguments: Arguments) -> int:
        name, axis = next(iter(self.call.rows.items()))
        return int(arguments[name].shape[axis])

    def _row(self, arguments: Arguments, row: int) -> dict[str, Any]:
        """The arguments of a call for one of the rows."""
        index = mx.array([row])
        return {**arguments, **{name: mx.take(arguments[name], index, axis) for name, axis in self.call.rows.items()}}

    def _run(self, arguments: Arguments, state: mx.array | None) -> tuple[mx.array, mx.array]:
        return self.function(**{**arguments, self.call.state: state})


def gated_delta_inputs(arguments: Arguments) -> ScanInputs:
    """As mlx-lm's `gated_delta_update` makes them."""
    beta = mx.sigmoid(arguments["b"])
    if arguments.get("allow_neg_eigval"):
        beta = beta * 2.0
    bound = arguments.get("lower_bound")
    gate = arguments["A_log"], arguments["a"], arguments["dt_bias"]
    g = compute_g(*gate) if bound is None else compute_lower_bound_g(*gate, bound)
    return ScanInputs(arguments["q"], arguments["k"], arguments["v"], g, beta)


def mamba2_inputs(arguments: Arguments) -> ScanInputs:
    """As mlx-lm's `ssm_update` makes them."""
    dt = compute_dt(arguments["dt"], arguments["dt_bias"], arguments.get("time_step_limit", (0.001, 100.0)))
    decay = mx.exp(dt * -mx.exp(arguments["A_log"]).astype(mx.float32))
    return ScanInputs(arguments["C"], arguments["B"], dt[..., None] * arguments["hidden_states"], decay, None)


def mamba2_outputs(arguments: Arguments, outputs: mx.array) -> mx.array:
    """The outputs, and what skips the state."""
    x = arguments["hidden_states"]
    return (outputs + x * arguments["D"][:, None]).astype(x.dtype)
