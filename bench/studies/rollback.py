"""What taking rows back costs a model with recurrent layers, beside a plain step; and the bytes it moves.

    helix-mlx bench rollback [--drafts 4] [--layers 8]

A random 4-bit model of Qwen3.5-4B's widths, cut to some of its layers. After a pass over the last token and K drafts,
the recurrent states advance by the rows that were kept: that is timed, beside a step of one row. The bytes are those of
a whole model on paper.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import click
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models import qwen3_5

from helix_mlx.bench.output.command import Measured, measurement
from helix_mlx.bench.output.tables import Asked, table
from helix_mlx.kernels.cpu.choice import choose_kernels
from helix_mlx.kernels.cpu.layers import replace_layers
from helix_mlx.kernels.device import on_cpu
from helix_mlx.models.probe import Probed, probe
from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.page_pool import TARGET, PagePool
from helix_mlx.paging.paged_cache import PagedKV
from helix_mlx.recurrent.install import install
from helix_mlx.request import MAX_DRAFT_TOKENS

MOST_OF_A_STEP = 0.10
MOST_OF_WEIGHTS = 0.05
PAGE = 16
BITS, GROUP_SIZE = 4, 64
QWEN3_5_4B = {
    "hidden_size": 2560, "intermediate_size": 9216, "num_hidden_layers": 32, "num_attention_heads": 16,
    "num_key_value_heads": 4, "linear_num_value_heads": 32, "linear_num_key_heads": 16,
}  # fmt: skip
QWEN3_6_27B = {
    "hidden_size": 5120, "intermediate_size": 17408, "num_hidden_layers": 64, "num_attention_heads": 24,
    "num_key_value_heads": 4, "linear_num_value_heads": 48, "linear_num_key_heads": 16, "vocab_size": 248320,
}  # fmt: skip
_SHARED = {
    "model_type": "qwen3_5", "head_dim": 256, "rms_norm_eps": 1e-6, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "full_attention_interval": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Rollback:
    """Milliseconds of a plain step, and of taking back after a pass; `ratio` is the median of pairs, in turn."""

    drafts: int
    step_ms: float
    advance_ms: float
    ratio: float
    state_bytes: int


@dataclass(frozen=True)
class Paper:
    """Bytes that taking back moves, and those of the weights, which every pass reads."""

    model: str
    drafts: int
    moved: int
    weights: int

    @property
    def share(self) -> float:
        """Of the weights."""
        return self.moved / self.weights


def shaped(sizes: dict[str, int], **changes: Any) -> tuple[Any, dict[str, Any]]:
    """A random 4-bit model of these sizes, still lazy, and its configuration."""
    config = {"model_type": "qwen3_5", "text_config": {**_SHARED, **sizes, **changes}}
    model = qwen3_5.Model(qwen3_5.ModelArgs.from_dict(config))
    if on_cpu():
        model.set_dtype(mx.float32)
    nn.quantize(model, group_size=GROUP_SIZE, bits=BITS)
    model.eval()
    return model, config


def on_paper(name: str, sizes: dict[str, int], drafts: int) -> Paper:
    """The states are read and written once, and the rows that were recorded are read. Nothing is computed here."""
    model, config = shaped(sizes)
    probed = probe(model, config)
    leaves: Any = tree_flatten(model.parameters())
    rows = 0
    for shape in probed.layout.states:
        (_, channels), (heads, values, _) = shape.shapes
        # The rows of the convolution, and of the scan: keys, values, gate and beta, in float32.
        rows += (channels + (channels - heads * values) // 2 + heads * values + 2 * heads) * 4
    moved = 2 * probed.layout.state_bytes + (drafts + 1) * rows
    return Paper(name, drafts, moved, sum(array.nbytes for _, array in leaves))


def measure(model: Any, probed: Probed, drafts: int, repeats: int) -> Rollback:
    """Steps and rollbacks in turn, of one sequence.

    Args:
        model: in memory.
        probed: what `probe` has found of it.
        drafts: K; about half of them are kept.
        repeats: pairs that are timed.
    """
    pool = PagePool([probed.layers], PAGE, 2, layouts=[probed.layout])
    kv = PagedKV.empty(pool, TARGET, BlockTable(pool.allocator), PAGE + MAX_DRAFT_TOKENS + 1)
    at, limit = mx.array([1], mx.int32), drafts + 2
    steps, advances = [], []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        mx.eval(model(mx.array([[1]]), cache=kv.caches(at, 2)), kv.arrays)
        steps.append(time.perf_counter() - began)
        mx.eval(model(mx.array([list(range(drafts + 1))]), cache=kv.caches(at, limit, record=True)))
        began = time.perf_counter()
        kv.advance(mx.array([drafts // 2 + 1], mx.int32))
        mx.eval(kv.arrays)
        advances.append(time.perf_counter() - began)
    ratios = [a / s for a, s in zip(advances[2:], steps[2:], strict=True)]
    return Rollback(
        drafts,
        statistics.median(steps[2:]) * 1e3,
        statistics.median(advances[2:]) * 1e3,
        statistics.median(ratios),
        probed.layout.state_bytes,
    )


@measurement
@click.option("--layers", default=8, show_default=True, type=click.IntRange(4), help="Of the model's 32.")
@click.option("--drafts", default=4, show_default=True, type=click.IntRange(1, MAX_DRAFT_TOKENS), help="K.")
@click.option("--vocab", default=32_000, show_default=True, type=click.IntRange(8), help="Tokens of the cut model.")
@click.option("--repeats", default=20, show_default=True, type=click.IntRange(1), help="Pairs of timings.")
def main(layers: int, drafts: int, vocab: int, repeats: int) -> Measured:
    """What taking drafts back costs a model with recurrent layers."""
    model, config = shaped(QWEN3_5_4B, num_hidden_layers=layers, vocab_size=vocab)
    mx.eval(model.parameters())
    probed = probe(model, config)
    kernels = choose_kernels("auto", notice=click.echo)
    if kernels.library is not None:
        replace_layers(model, kernels.library)
        install(model, kernels.library)
    timed = measure(model, probed, drafts, repeats)
    paper = on_paper("Qwen3.6-27B", QWEN3_6_27B, drafts)
    click.echo(f"Qwen3.5-4B's widths, 4 bits, random, {layers} layers; medians of {repeats} pairs in turn:")
    table(
        ["K", "plain step ms", "take back ms", "ratio", "states MB"],
        [(drafts, f"{timed.step_ms:.2f}", f"{timed.advance_ms:.2f}", f"{timed.ratio:.3f}",
          f"{timed.state_bytes / 1e6:.1f}")],
    )  # fmt: skip
    click.echo(
        f"On paper, {paper.model} at K = {drafts}: {paper.moved / 1e6:,.0f} MB moved to take back, "
        f"{paper.share:.1%} of the {paper.weights / 1e9:.1f} GB of weights that a pass reads."
    )
    asked = [
        Asked("taking back, by a plain step", f"at most {MOST_OF_A_STEP:.0%}", f"{timed.ratio:.1%}",
              timed.ratio <= MOST_OF_A_STEP),
        Asked("bytes moved, by the weights", f"at most {MOST_OF_WEIGHTS:.0%}", f"{paper.share:.1%}",
              paper.share <= MOST_OF_WEIGHTS),
    ]  # fmt: skip
    return {"timed": asdict(timed), "paper": asdict(paper)}, asked
