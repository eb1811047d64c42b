"""How a long prompt that arrives delays a running stream: what is read between two of its tokens.

    helix-mlx bench interference [--prompt 4000] [--quick] [--out FILE]

A random pair with a long context. The runner is driven step by step, as the engine's thread does it, so that every
count belongs to a known gap of the stream. Two arms, each alone: with the default chunk, and with a chunk that holds
the whole prompt.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field

import click
import numpy as np

from helix_mlx.bench.fixtures.models import small_pair
from helix_mlx.bench.output.command import Measured, measurement
from helix_mlx.bench.output.tables import Asked, table
from helix_mlx.config import EngineConfig
from helix_mlx.engine.core import EngineCore
from helix_mlx.engine.scheduling.sequence import Sequence
from helix_mlx.models.pair import Pair
from helix_mlx.request import SamplingParams

STREAM_PROMPT = 32
BEFORE, AFTER = 12, 12
"""Gaps of the stream before the prompt arrives, and after it has been answered first."""
WIDTH = 48
"""Of the plot."""


@dataclass(frozen=True)
class Gap:
    """Between two moments at which the stream had tokens."""

    ms: float
    read: int
    """Tokens of prompts read by the target."""
    draft_read: int


@dataclass
class Trace:
    """One arm: the stream's gaps, and between which the prompt arrived and had its first token."""

    chunk: int
    gaps: list[Gap] = field(default_factory=list)
    arrived: int = 0
    answered: int = 0


class Stream:
    """A running answer, in a core whose runner is stepped by hand.

    Args:
        pair: what is run.
        chunk: prompt tokens between two cycles.
        prompt: tokens of the prompt that will arrive.
    """

    def __init__(self, pair: Pair, chunk: int, prompt: int) -> None:
        self._core = EngineCore(pair, EngineConfig(prefill_chunk=chunk, prefix_cache=False))
        self._prompt = prompt
        self.trace = Trace(chunk)

    def run(self) -> Trace:
        """The whole trace."""
        try:
            stream = self._submit(STREAM_PROMPT, 2048)
            while stream.emitted_count < 2:
                self._core.runner.step()
            for _ in range(BEFORE):
                self._gap(stream)
            self.trace.arrived = len(self.trace.gaps)
            late = self._submit(self._prompt, 64)
            while not late.emitted_count:
                self._gap(stream)
            self.trace.answered = len(self.trace.gaps)
            for _ in range(AFTER):
                self._gap(stream)
        finally:
            self._core.runner.abandon()
            self._core.close()
        return self.trace

    def _submit(self, length: int, most: int) -> Sequence:
        tokens = np.random.default_rng(length).integers(0, self._core.pair.target.vocab_size, length).tolist()
        sequence = self._core.sequence(tokens, SamplingParams(max_tokens=most))
        sequence.times.submitted = time.perf_counter()
        self._core.runner.add(sequence)
        return sequence

    def _gap(self, stream: Sequence) -> None:
        runner, emitted = self._core.runner, stream.emitted_count
        before, began = runner.metrics(), time.perf_counter()
        while stream.emitted_count == emitted:
            runner.step()
        ms, after = (time.perf_counter() - began) * 1e3, runner.metrics()
        read, draft = (
            after.prefill_tokens - before.prefill_tokens,
            after.draft_prefill_tokens - before.draft_prefill_tokens,
        )
        self.trace.gaps.append(Gap(ms, read, draft))


def plot(trace: Trace) -> None:
    """A line a gap, long as it took."""
    longest = max(gap.ms for gap in trace.gaps)
    click.echo(f"\nchunk {trace.chunk}: gaps of the stream, one a line; * {longest / WIDTH:.1f} ms")
    for number, gap in enumerate(trace.gaps):
        if trace.arrived - 4 <= number < trace.answered + 4:
            mark = "<- the prompt arrives" if number == trace.arrived else ""
            mark = "<- its first token has come" if number == trace.answered else mark
            stars = "*" * max(1, round(WIDTH * gap.ms / longest))
            click.echo(f"{gap.ms:8.1f} ms {gap.read:5d}+{gap.draft_read:<4d} read {stars:<{WIDTH}} {mark}".rstrip())


def row(trace: Trace) -> list[object]:
    """A line of the table."""
    quiet = sorted(gap.ms for gap in trace.gaps[: trace.arrived])
    busy = trace.gaps[trace.arrived : trace.answered]
    return [
        trace.chunk,
        f"{quiet[len(quiet) // 2]:.1f}",
        f"{max(gap.ms for gap in trace.gaps):.1f}",
        max(gap.read for gap in trace.gaps),
        max(gap.read + gap.draft_read for gap in trace.gaps),
        len(busy),
        f"{sum(gap.ms for gap in busy):.0f}",
    ]


@measurement
@click.option(
    "--prompt", default=4000, show_default=True, type=click.IntRange(1), help="Length of the arriving prompt in tokens."
)
@click.option("--quick", is_flag=True, help="One run of each arm instead of three.")
def main(prompt: int, quick: bool) -> Measured:
    """Show the gaps in a running stream while a long prompt arrives, with and without chunked prefill."""
    chunk = EngineConfig().prefill_chunk
    pair = small_pair(prompt + 4096)
    traces = [Stream(pair, size, prompt).run() for _ in range(1 if quick else 3) for size in (chunk, prompt + 96)]
    for trace in traces[-2:]:
        plot(trace)
    click.echo()
    heads = ["chunk", "ms before", "longest, ms", "read in a gap", "with the draft", "gaps until answered", "ms in all"]
    table(heads, [row(trace) for trace in traces])
    chunked = [gap for trace in traces if trace.chunk == chunk for gap in trace.gaps]
    most = max(gap.read + gap.draft_read for gap in chunked)
    # A prompt's last token is read in the cycle itself, as a row of it.
    found = [
        Asked("tokens read between two of the stream's", f"at most a chunk, {chunk}", f"{most}", most <= chunk + 1)
    ]
    return [asdict(trace) for trace in traces], found
