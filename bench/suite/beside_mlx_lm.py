"""Drafts kept and time to first token, beside mlx-lm's own speculation on the same pair and prompts.

    helix-mlx bench beside-mlx-lm [--pair tiny] [--draft-tokens 4] [--out FILE]

Both sides draw their own tokens, so at a temperature above 0 the texts differ; each arm runs every prompt several
times, in turn with the other, and stops where its own answer ends.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import click
import mlx.core as mx
from mlx_lm.generate import speculative_generate_step
from mlx_lm.sample_utils import make_sampler

from helix_mlx.bench.fixtures.prompts import Prompt, mixed_prompts
from helix_mlx.bench.output.command import Measured, measurement
from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine, load
from helix_mlx.request import SamplingParams


@dataclass
class Arm:
    """One side at one temperature: counts over all its answers, and seconds to each first token."""

    name: str
    temperature: float
    drafted: int = 0
    accepted: int = 0
    emitted: int = 0
    first_token_s: list[float] = field(default_factory=list)
    tokens_per_s: list[float] = field(default_factory=list)

    @property
    def acceptance(self) -> float:
        """Drafts kept for each draft proposed."""
        return self.accepted / self.drafted if self.drafted else 0.0


def run_mlx_lm(engine: Engine, arm: Arm, tokens: list[int], count: int, max_tokens: int) -> None:
    """One answer of mlx-lm's `speculative_generate_step`."""
    pair = engine.pair
    assert pair.draft is not None
    models: list[Any] = [pair.target.model, pair.draft.model]
    began = time.perf_counter()
    steps = speculative_generate_step(
        mx.array(tokens), *models,
        num_draft_tokens=count, max_tokens=max_tokens, sampler=make_sampler(arm.temperature),
    )  # fmt: skip
    first = 0.0
    emitted = cycles = 0
    for token, _, from_draft in steps:
        first = first or time.perf_counter() - began
        emitted += 1
        arm.accepted += from_draft
        cycles += not from_draft
        if int(token) in pair.tokenizer.eos_ids:
            cycles += from_draft
            break
    arm.emitted += emitted
    arm.drafted += count * cycles
    arm.first_token_s.append(first)
    arm.tokens_per_s.append(emitted / (time.perf_counter() - began))


def run_helix(engine: Engine, arm: Arm, tokens: list[int], count: int, max_tokens: int) -> None:
    """One answer of Helix."""
    began = time.perf_counter()
    stats = engine.generate(
        tokens, SamplingParams(max_tokens=max_tokens, temperature=arm.temperature), draft_tokens=count
    ).stats
    arm.emitted += stats.emitted
    arm.drafted += stats.drafted
    arm.accepted += stats.accepted
    arm.first_token_s.append(stats.time_to_first_token_s)
    arm.tokens_per_s.append(stats.emitted / (time.perf_counter() - began))


def compare(
    engine: Engine, prompts: list[Prompt], temperature: float, count: int, repeats: int, max_tokens: int
) -> tuple[Arm, Arm]:
    """Both arms over all prompts, in turn."""
    theirs, ours = Arm("mlx-lm", temperature), Arm("helix", temperature)
    warm_up = prompts[0].tokens(engine)
    run_mlx_lm(engine, Arm("", temperature), warm_up, count, 8)
    run_helix(engine, Arm("", temperature), warm_up, count, 8)
    for repeat in range(repeats):
        for prompt in prompts:
            tokens = prompt.tokens(engine)
            arms = [(run_mlx_lm, theirs), (run_helix, ours)]
            for run, arm in arms if repeat % 2 == 0 else arms[::-1]:
                run(engine, arm, tokens, count, max_tokens)
    return theirs, ours


@measurement
@click.option("--pair", default="tiny", show_default=True, help="A pair of `helix-mlx pairs`.")
@click.option("--draft-tokens", default=4, show_default=True, help="Drafts a cycle, on both sides.")
@click.option("--repeats", default=3, show_default=True, help="Times each prompt is answered.")
@click.option("--max-tokens", default=64, show_default=True, help="Longest answer.")
def main(pair: str, draft_tokens: int, repeats: int, max_tokens: int) -> Measured:
    """Compare with mlx-lm's speculation at temperatures 0, 0.8 and 1."""
    arms: list[Arm] = []
    # The same prompts at every temperature, and mlx-lm reads each of them anew: so does Helix here.
    with load(pair, config=EngineConfig(prefix_cache=False)) as engine:
        for temperature in (0.0, 0.8, 1.0):
            mx.random.seed(0)
            theirs, ours = compare(engine, mixed_prompts(), temperature, draft_tokens, repeats, max_tokens)
            arms += [theirs, ours]
            first = [statistics.median(arm.first_token_s) * 1e3 for arm in (theirs, ours)]
            paired = statistics.median(o / t for o, t in zip(ours.first_token_s, theirs.first_token_s, strict=True))
            click.echo(
                f"temperature {temperature}: kept  mlx-lm {theirs.acceptance:.3f}  helix {ours.acceptance:.3f}  "
                f"ratio {ours.acceptance / max(theirs.acceptance, 1e-9):.2f};  "
                f"first token  mlx-lm {first[0]:.1f} ms  helix {first[1]:.1f} ms  paired ratio {paired:.2f}"
            )
    return [asdict(arm) for arm in arms], []
