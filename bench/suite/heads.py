"""Tokens per pass of the target with a multi-token-prediction head, beside n-grams and a draft model.

    helix-mlx bench mtp [--steps 240] [--prompts 4] [--max-tokens 64] [--out FILE]

A head of the built-in target is trained for a few minutes on the corpus, which is far less than the built-in draft was
trained for. All three draft for the same prompts, and every answer has to be what the target says without drafts.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from helix_mlx.bench.fixtures.prompts import WORKLOADS, filled
from helix_mlx.bench.output.command import Measured, measurement
from helix_mlx.bench.output.tables import Asked, table
from helix_mlx.bench.studies.distillation import program
from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine, load
from helix_mlx.request import SamplingParams
from helix_mlx.speculative.registry import MODEL, MTP, NGRAM, NONE

TEMPERATURES, DRAFTS = (0.0, 0.7), (1, 2, 4)
CHANCE = 1.05
"""Tokens per pass that a head which has learnt nothing would not reach."""


@dataclass(frozen=True)
class Kept:
    """What a drafter's drafts came to, over all workloads."""

    drafter: str
    temperature: float
    draft_tokens: int
    tokens_per_pass: float
    acceptance: float


@measurement
@click.option("--steps", default=240, show_default=True, type=click.IntRange(1), help="Training steps of the head.")
@click.option("--prompts", default=4, show_default=True, type=click.IntRange(1), help="Prompts of each workload.")
@click.option("--max-tokens", default=64, show_default=True, type=click.IntRange(2), help="Longest answer.")
def main(steps: int, prompts: int, max_tokens: int) -> Measured:
    """Measure a multi-token-prediction head beside n-grams and a draft model."""
    with tempfile.TemporaryDirectory(prefix="helix-mlx-") as temporary:
        folder = Path(temporary) / "target"
        click.echo(f"Training a head for {steps} steps.", err=True)
        program("-m", "helix_mlx.convert.builtin.head", "--out", str(folder), "--steps", str(steps))
        return compare(folder, prompts, max_tokens)


def compare(folder: Path, prompts: int, max_tokens: int) -> Measured:
    """Let a head in the built-in target's folder, the built-in draft and n-grams draft for the same prompts."""
    config = EngineConfig(calibrate=False, max_context=1024, max_rows=256)
    found: list[Kept] = []
    exact = True
    with load("tiny", config=config) as pair, load(target=str(folder), config=config) as headed:
        asked = [filled(pair, workload, prompt, None) for workload in WORKLOADS for prompt in range(prompts)]
        for temperature in TEMPERATURES:
            params = [
                SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed if temperature else None)
                for seed in range(len(asked))
            ]
            _, expected = _run(pair, asked, params, 0, NONE, temperature)
            for count in DRAFTS:
                for engine, drafter in ((pair, NGRAM), (pair, MODEL), (headed, MTP)):
                    kept, texts = _run(engine, asked, params, count, drafter, temperature)
                    exact = exact and texts == expected
                    found.append(kept)
    heads = ["", *(f"K={count}" for count in DRAFTS), *(f"kept, K={count}" for count in DRAFTS)]
    rows = []
    for temperature in TEMPERATURES:
        for drafter in (NGRAM, MODEL, MTP):
            part = [each for each in found if (each.drafter, each.temperature) == (drafter, temperature)]
            figures = [f"{each.tokens_per_pass:.2f}" for each in part] + [f"{each.acceptance:.2f}" for each in part]
            rows.append([f"temperature {temperature:g}, {drafter}", *figures])
    click.echo("\nTokens per pass of the target, and the share of drafts that were kept")
    table(heads, rows)
    worst = min(each.tokens_per_pass for each in found if each.drafter == MTP)
    limits = [
        Asked("answers of all drafters equal to those without drafts", "all", "all" if exact else "not all", exact),
        Asked("tokens per pass with the head, at least", f"> {CHANCE}", f"{worst:.2f}", worst > CHANCE),
    ]
    return [asdict(each) for each in found], limits


def _run(
    engine: Engine, asked: list[list[int]], params: list[SamplingParams], count: int, drafter: str, temperature: float
) -> tuple[Kept, list[list[int]]]:
    done: Any = engine.generate(asked, params, draft_tokens=count, drafter=drafter)
    passes = sum(each.stats.target_passes for each in done)
    drafted, kept = sum(each.stats.drafted for each in done), sum(each.stats.accepted for each in done)
    emitted = sum(each.stats.emitted - 1 for each in done)
    texts = [each.tokens for each in done]
    return Kept(drafter, temperature, count, emitted / max(1, passes), kept / max(1, drafted)), texts
