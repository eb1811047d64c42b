"""A decoding step on paged KV, compared with the same batch in mlx-lm's contiguous batch cache.

    helix-mlx bench step-cost [--quick] [--repeats N] [--out FILE]

One model of TinyLlama's width, random weights, 4 bits; both sides run the same object, so the same products. A step of
Helix is `Runner.step`: the schedule, a cycle of K = 0 for the whole batch, the tokens on the host, each taken into its
answer, and full pages committed. A step of mlx-lm is `GenerationBatch.next` over `BatchKVCache` without padding: the
pass, its log-probabilities, the arg max, the tokens on the host, and the search for stop sequences. Neither makes
text. Keys and values before the first step are random numbers, put where each side keeps them.

With the CPU kernels on, Helix reads pages by a kernel of its own and mlx-lm its cache by MLX's, so the figure is that
of two stores with the attention that each allows. With them off both attend by MLX's, and Helix gathers its pages.

Sides take turns in blocks of one page, so that each block of Helix has one commit of every sequence, and no block ends
before the device is idle. A ratio is that of two blocks that lie side by side.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, Protocol

import click
import mlx.core as mx
import numpy as np
from mlx_lm.generate import GenerationBatch, StopSequences
from mlx_lm.models.cache import BatchKVCache
from mlx_lm.sample_utils import make_sampler

from helix_mlx.bench.fixtures.models import pair_of, random_llama
from helix_mlx.bench.output.command import Measured, measurement
from helix_mlx.bench.output.tables import Asked, Spread, table
from helix_mlx.config import EngineConfig
from helix_mlx.engine.execution.cycle import Models
from helix_mlx.engine.execution.runner import Runner
from helix_mlx.engine.memory import allocate_pool
from helix_mlx.engine.scheduling.draft_policy import AdaptiveDraftPolicy, estimated_cost_table
from helix_mlx.engine.scheduling.scheduler import Limits, Scheduler
from helix_mlx.engine.scheduling.sequence import KVState, Sequence
from helix_mlx.kernels.cpu import attention
from helix_mlx.models.pair import Pair
from helix_mlx.models.text.incremental_text import IncrementalText
from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.page_pool import PagePool
from helix_mlx.paging.prefix_cache import PrefixCache
from helix_mlx.request import SamplingParams

PAGE = 16
WIDTH: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 4096,
}
BATCHES = (1, 4, 8)
CONTEXTS = (256, 2048)
ASKED = 1.05


class Side(Protocol):
    """One way to decode a batch, step after step."""

    def step(self) -> None:
        """One more token of every sequence."""

    def settle(self) -> None:
        """Wait until the device is idle."""


class Filling:
    """A model that does not compute what it reads of a prompt, and puts random numbers into its cache instead."""

    def __init__(self, model: Any, pool: PagePool) -> None:
        self._model = model
        self._shapes = pool.layers[0]

    def __call__(self, inputs: mx.array, cache: Seq[Any] | None = None) -> mx.array:
        """One pass: of one row by the model, of more by nobody."""
        batch, rows = inputs.shape
        if rows == 1 or cache is None:
            return self._model(inputs, cache=cache)
        for shape, layer in zip(self._shapes, cache, strict=True):
            layer.update_and_fetch(
                mx.random.normal((batch, shape.key_heads, rows, shape.key_dim)),
                mx.random.normal((batch, shape.value_heads, rows, shape.value_dim)),
            )
        return mx.zeros((batch, rows, 1))


class Silent:
    """A tokenizer that makes no text of tokens."""

    def decode(self, tokens: list[int]) -> str:
        """Nothing to say."""
        return ""

    def piece(self, token: int) -> str | None:
        """No token has a name."""
        return None


class Helix:
    """A batch that decodes over pages.

    Args:
        pair: the model.
        batch, context: how many sequences, and the positions of each before the first step.
        steps: that will be taken at most.
        lookahead: cycles that are enqueued before one is read.
    """

    def __init__(self, pair: Pair, batch: int, context: int, steps: int, lookahead: int | None) -> None:
        most = context + steps + 2 * PAGE
        per_page = PagePool.bytes_per_page([pair.target.layers], PAGE)
        memory = (batch * (most // PAGE + 2) + 1) * per_page
        asked = EngineConfig(page_size=PAGE, kv_memory=memory, max_context=most, lookahead=lookahead)
        self._pool, _, config = allocate_pool(pair, asked)
        if self._pool.pages_most > self._pool.allocator.pages_total:
            self._pool.grow(self._pool.pages_most - self._pool.allocator.pages_total)
        if pair.kernels.library is not None and attention.install(pair.target.model):
            self._pool.direct[0] = pair.kernels.library
        limits = Limits(
            page_size=PAGE,
            pages_total=self._pool.pages_most,
            max_sequences=batch,
            prefill_tokens=batch * context,
            max_rows=max(batch, config.max_rows),
            lookahead=0 if lookahead == 0 else 1,
        )
        cache = PrefixCache(self._pool.allocator, PAGE, b"", enabled=True)
        models = Models(Filling(pair.target.model, self._pool), pair.target.vocab_size, None, None)
        self._runner = Runner(
            models, self._pool, cache, Scheduler(limits), AdaptiveDraftPolicy(estimated_cost_table(0.0)), lookahead
        )
        for number in range(batch):
            self._runner.add(self._sequence(number, context, most))
        while self.emitted < batch:
            self._runner.step()
        assert self._runner.metrics().running == batch

    @property
    def emitted(self) -> int:
        """Tokens so far, of all sequences."""
        return self._runner.metrics().emitted

    def _sequence(self, number: int, context: int, most: int) -> Sequence:
        tokens = np.random.default_rng(number).integers(0, WIDTH["vocab_size"], context + 1).tolist()
        return Sequence(
            tokens=tokens,
            prompt_tokens=len(tokens),
            params=SamplingParams(),
            max_new=most,
            seed=0,
            eos_ids=frozenset(),
            answer=IncrementalText(Silent(), (), ()),  # type: ignore[arg-type]
            kv=KVState(BlockTable(self._pool.allocator)),
            pages_most=-(-most // PAGE),
        )

    def step(self) -> None:
        """See `Side`."""
        self._runner.step()

    def settle(self) -> None:
        """See `Side`."""
        mx.synchronize()


class MlxLm:
    """The same batch in mlx-lm's cache for batches."""

    def __init__(self, pair: Pair, batch: int, context: int) -> None:
        caches = []
        for shape in pair.target.layers:
            cache = BatchKVCache([0] * batch)
            cache.update_and_fetch(
                mx.random.normal((batch, shape.key_heads, context, shape.key_dim)),
                mx.random.normal((batch, shape.value_heads, context, shape.value_dim)),
            )
            caches.append(cache)
        mx.eval([cache.state[:2] for cache in caches])
        model: Any = pair.target.model
        sampler = make_sampler(0.0)
        self._batch = GenerationBatch(
            model=model,
            uids=list(range(batch)),
            inputs=mx.zeros((batch,), mx.uint32),
            prompt_cache=caches,
            tokens=[[] for _ in range(batch)],
            samplers=[sampler] * batch,
            fallback_sampler=sampler,
            logits_processors=[[] for _ in range(batch)],
            stop_sequences=[StopSequences() for _ in range(batch)],
            max_tokens=[2**30] * batch,
        )

    def step(self) -> None:
        """See `Side`."""
        self._batch.next()

    def settle(self) -> None:
        """Wait for the step that it has begun for the next call, which every block both finds and leaves begun."""
        mx.synchronize()


def block(side: Side, steps: int) -> float:
    """Milliseconds a step of a side, over some steps."""
    side.settle()
    began = time.perf_counter()
    for _ in range(steps):
        side.step()
    side.settle()
    return (time.perf_counter() - began) * 1e3 / steps


@dataclass(frozen=True)
class Row:
    """One batch and context: milliseconds a step of both sides, block by block."""

    kernels: bool
    batch: int
    context: int
    helix: list[float]
    mlx_lm: list[float]

    @property
    def ratio(self) -> Spread:
        """Helix by mlx-lm, of neighbouring blocks."""
        return Spread.of([ours / theirs for ours, theirs in zip(self.helix, self.mlx_lm, strict=True)])


def measure(pair: Pair, batch: int, context: int, repeats: int, lookahead: int | None) -> Row:
    """Both sides in turn, after a block of each that does not count."""
    ours = Helix(pair, batch, context, PAGE * (repeats + 1), lookahead)
    theirs = MlxLm(pair, batch, context)
    row = Row(pair.kernels.library is not None, batch, context, [], [])
    for repeat in range(-1, repeats):
        arms: list[tuple[Side, list[float]]] = [(ours, row.helix), (theirs, row.mlx_lm)]
        for side, taken in arms if repeat % 2 == 0 else arms[::-1]:
            found = block(side, PAGE)
            if repeat >= 0:
                taken.append(found)
    assert ours.emitted == batch * (1 + PAGE * (repeats + 1)), "a step was no step"
    return row


def whole_table(pair: Pair, batches: Seq[int], repeats: int, lookahead: int | None) -> list[Row]:
    """Measure and print every batch and context with one set of kernels."""
    library = pair.kernels.library
    click.echo(
        f"\nCPU kernels: {f'{library.form}, {library.threads} threads' if library else 'none, MLX alone'}; layers of "
        f"TinyLlama's width, 4 bits, random: {len(pair.target.layers)}; blocks of {PAGE} steps a side: {repeats}; "
        f"lookahead {'auto' if lookahead is None else lookahead}"
    )
    rows = []
    for context in CONTEXTS:
        for batch in batches:
            rows.append(measure(pair, batch, context, repeats, lookahead))
            mx.clear_cache()
    table(
        ["batch", "context", "helix ms", "mlx-lm ms", "ratio (quartiles)"],
        [
            (row.batch, row.context, f"{Spread.of(row.helix).median:.2f}", f"{Spread.of(row.mlx_lm).median:.2f}",
             row.ratio)
            for row in rows
        ],
    )  # fmt: skip
    return rows


@measurement
@click.option("--quick", is_flag=True, help="Smaller models and fewer blocks.")
@click.option("--repeats", type=click.IntRange(1), help="Blocks per side.  [default: 6; without kernels 3]")
@click.option("--lookahead", type=click.IntRange(0, 1), help="Cycles to start before one is read.")
@click.option("--kernels", type=click.Choice(["both", "on", "off"]), default="both", show_default=True)
def main(quick: bool, repeats: int | None, lookahead: int | None, kernels: str) -> Measured:
    """Compare the time of a decoding step on paged KV and in mlx-lm's batch cache."""
    rows: list[Row] = []
    if kernels != "off":
        layers = 4 if quick else 8
        pair = pair_of(random_llama(0, quantized=True, num_hidden_layers=layers, **WIDTH), None)
        if pair.kernels.library is None:
            click.echo(f"no CPU kernels: {pair.kernels.reason}")
        else:
            rows += whole_table(pair, BATCHES, repeats or (3 if quick else 6), lookahead)
    if kernels != "on":
        # MLX's own products are slow here, on both sides alike, so one layer has to do.
        pair = pair_of(random_llama(0, quantized=True, num_hidden_layers=1, **WIDTH), None, "off")
        rows += whole_table(pair, BATCHES[:-1] if quick else BATCHES, repeats or (1 if quick else 3), lookahead)
    found = [
        Asked(
            f"batch {row.batch}, context {row.context}, kernels {'on' if row.kernels else 'off'}: pages by contiguous",
            f"at most {ASKED}",
            str(row.ratio),
            row.ratio.median <= ASKED,
        )
        for row in rows
    ]
    return [vars(row) for row in rows], found
