"""Tokens a second of whole answers, beside mlx-lm plain and with the draft, arms in turn.

    python -m helix_mlx.bench.speed [--pair tiny] [--json FILE]

mlx-lm runs the weights as it loads them; Helix runs them with its CPU kernels where there are any. Answers are
greedy, so all arms say the same and differ only in time (but for ties that other arithmetic breaks otherwise).
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import mlx.core as mx
from mlx_lm.generate import generate_step, speculative_generate_step

from helix_mlx.bench.prompts import mixed_prompts
from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine, load

Arm = Callable[[list[int], int], int]
"""Answers a prompt with at most so many tokens; returns how many there were."""


def mlx_lm_plain(engine: Engine, tokens: list[int], most: int) -> int:
    """mlx-lm's `generate_step`, up to the end of the answer."""
    model: Any = engine.pair.target.model
    return until_end(engine, generate_step(mx.array(tokens), model, max_tokens=most))


def mlx_lm_draft(engine: Engine, count: int, tokens: list[int], most: int) -> int:
    """mlx-lm's `speculative_generate_step`, up to the end of the answer."""
    assert engine.pair.draft is not None
    models: list[Any] = [engine.pair.target.model, engine.pair.draft.model]
    steps = speculative_generate_step(mx.array(tokens), *models, num_draft_tokens=count, max_tokens=most)
    return until_end(engine, steps)


def helix(engine: Engine, count: int, tokens: list[int], most: int) -> int:
    """Helix with K = count."""
    return len(engine.generate(tokens, max_tokens=most, temperature=0, draft_tokens=count).tokens)


def until_end(engine: Engine, steps: Any) -> int:
    """Count the tokens of one of mlx-lm's generators, to the one that ends the answer."""
    emitted = 0
    for token, *_ in steps:
        emitted += 1
        if int(token) in engine.pair.tokenizer.eos_ids:
            break
    return emitted


def arms(theirs: Engine, ours: Engine) -> dict[str, Arm]:
    """Every arm by its name."""
    named: dict[str, Arm] = {"mlx-lm plain": partial(mlx_lm_plain, theirs)}
    named |= {f"mlx-lm draft K={count}": partial(mlx_lm_draft, theirs, count) for count in (2, 3, 4)}
    return named | {f"helix K={count}": partial(helix, ours, count) for count in range(8)}


def measure(named: dict[str, Arm], prompts: list[list[int]], repeats: int, most: int) -> dict[str, list[float]]:
    """Tokens a second of each arm, one figure a repeat over all prompts; the order of the arms turns."""
    found: dict[str, list[float]] = {name: [] for name in named}
    for arm in named.values():
        arm(prompts[0], 8)
    for repeat in range(repeats):
        order = list(named)[repeat % len(named) :] + list(named)[: repeat % len(named)]
        for name in order:
            began, emitted = time.perf_counter(), 0
            for tokens in prompts:
                emitted += named[name](tokens, most)
            found[name].append(emitted / (time.perf_counter() - began))
    return found


@click.command()
@click.option("--pair", default="tiny", show_default=True, help="A pair of `helix-mlx pairs`.")
@click.option("--repeats", default=5, show_default=True, help="Rounds over all prompts, arms in turn.")
@click.option("--max-tokens", default=96, show_default=True, help="Longest answer.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every figure to a file.")
def main(pair: str, repeats: int, max_tokens: int, json_file: Path | None) -> None:
    """Print the median tokens a second of each arm, and its ratio to mlx-lm plain."""
    # Every repeat asks the same prompts, and mlx-lm reads each of them anew: so does Helix here.
    cold = EngineConfig(prefix_cache=False)
    with load(pair, config=EngineConfig(cpu_kernels="off")) as theirs, load(pair, config=cold) as ours:
        prompts = [prompt.tokens(ours) for prompt in mixed_prompts()]
        found = measure(arms(theirs, ours), prompts, repeats, max_tokens)
    base = found["mlx-lm plain"]
    for name, row in found.items():
        ratio = statistics.median(own / other for own, other in zip(row, base, strict=True))
        click.echo(f"{name:<18} {statistics.median(row):7.1f} tokens/s   {ratio:5.2f} x mlx-lm plain")
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
