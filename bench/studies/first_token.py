"""Time to first token of a conversation: cold, repeated, and in its second turn.

    helix-mlx bench first-token [--context 1000] [--quick] [--out FILE]

A random pair, since what is read again is a matter of counting. The target is of the built-in pair's width, with a
longer context. Cold is a conversation that the engine has not seen; the exact repeat is the same once more; the second
turn is the conversation, its answer and a new message. Every repeat has a conversation of its own.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass

import click
import numpy as np

from helix_mlx.bench.fixtures.models import small_pair
from helix_mlx.bench.output.command import Measured, measurement
from helix_mlx.bench.output.tables import Asked, Spread, table
from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine

ANSWER, MESSAGE = 64, 30
"""Tokens of each answer, and of the message of the second turn."""
BEYOND = 40
COLD, AGAIN, SECOND = "cold", "exact repeat", "second turn"


@dataclass(frozen=True)
class Seen:
    """One answer: what it read, and when its first token came."""

    prompt_tokens: int
    new: int
    """Tokens that the engine has neither read nor said yet."""
    prefill_tokens: int
    prefix_hit_tokens: int
    draft_prefill_tokens: int
    first_token_ms: float


def ask(engine: Engine, prompt: list[int], new: int) -> tuple[Seen, list[int]]:
    """Answer a prompt; returns what was seen, and the answer."""
    before = engine.metrics().draft_prefill_tokens
    answer = engine.submit(prompt, max_tokens=ANSWER, temperature=0).result()
    stats, drafted = answer.stats, engine.metrics().draft_prefill_tokens - before
    first = stats.time_to_first_token_s * 1e3
    return Seen(len(prompt), new, stats.prefill_tokens, stats.prefix_hit_tokens, drafted, first), answer.tokens


def conversation(engine: Engine, context: int, seed: int) -> dict[str, Seen]:
    """One conversation in all three states."""
    random = np.random.default_rng(seed)
    vocab_size = engine.pair.target.vocab_size
    prompt: list[int] = random.integers(0, vocab_size, context).tolist()
    cold, answer = ask(engine, prompt, context)
    again, same = ask(engine, prompt, 0)
    assert same == answer, "the repeat was answered otherwise"
    message: list[int] = random.integers(0, vocab_size, MESSAGE).tolist()
    second, _ = ask(engine, prompt + answer + message, MESSAGE)
    return {COLD: cold, AGAIN: again, SECOND: second}


def show(seen: dict[str, list[Seen]]) -> None:
    """Print the table; counts are the largest of all repeats."""
    cold = Spread.of([each.first_token_ms for each in seen[COLD]]).median
    rows = []
    for name, found in seen.items():
        first = Spread.of([each.first_token_ms for each in found])
        counts = [
            max(getattr(each, field) for each in found)
            for field in ("prompt_tokens", "new", "prefill_tokens", "prefix_hit_tokens", "draft_prefill_tokens")
        ]
        times = f"{first.median:.1f} ({first.low:.1f} to {first.high:.1f})"
        rows.append([name, *counts, times, f"{first.median / cold:.3f}"])
    table(["", "prompt", "new", "read", "found", "read by the draft", "first token, ms", "by cold"], rows)


@measurement
@click.option(
    "--context", default=1000, show_default=True, type=click.IntRange(1), help="Conversation length in tokens."
)
@click.option("--quick", is_flag=True, help="Fewer repeats.")
def main(context: int, quick: bool) -> Measured:
    """Measure the tokens read and the time to first token: cold, repeated, and in a second turn."""
    seen: dict[str, list[Seen]] = defaultdict(list)
    config = EngineConfig()
    with Engine(small_pair(context + 1024), config) as engine:
        ask(engine, [1, 2, 3], 3)
        for repeat in range(2 if quick else 9):
            # Lengths differ, so that the last page of the prompt is filled by any part.
            for name, each in conversation(engine, context + repeat, repeat).items():
                seen[name].append(each)
    show(seen)
    again = max(each.prefill_tokens for each in seen[AGAIN])
    beyond = max(each.prefill_tokens - MESSAGE for each in seen[SECOND])
    found = [
        Asked(
            "exact repeat, tokens read", f"at most a page, {config.page_size}", f"{again}", again <= config.page_size
        ),
        Asked("second turn, tokens read beyond the new message", f"fewer than {BEYOND}", f"{beyond}", beyond < BEYOND),
    ]
    return {name: [asdict(each) for each in row] for name, row in seen.items()}, found
