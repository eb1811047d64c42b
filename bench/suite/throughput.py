"""Tokens a second of many requests at once: mlx-lm's `BatchGenerator`, Helix without a draft, and Helix with it.

    helix-mlx bench throughput [--pair tiny] [--quick] [--out FILE]

So many requests run at once; the others wait, and each takes the place of one that has ended, on all sides. Answers are
greedy. The prefix cache is off, since every repeat asks the same prompts. mlx-lm runs twice: on the very model that
Helix runs, layers by our CPU kernels and all, which is the fair comparison, and on the model as mlx-lm loads it.

Each repeat asks one half of the prompts, the halves in turn; the arms take turns within it, and their order turns
too. A ratio is that of two arms of the same repeat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import click

from helix_mlx.bench.fixtures import baselines
from helix_mlx.bench.output.tables import Asked, Spread, table
from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.models.pair import Pair

Answers = list[list[int]]
Arm = Callable[[Answers, int], Answers]
"""Answers prompts with at most so many tokens each; returns the answers in their order."""
FAIR, LOADED, PLAIN, DEFAULT = "mlx-lm", "mlx-lm as loaded", "helix K=0", "helix default"
AT_ONCE = (1, 2, 4, 8)
FIXED = (1, 2, 3, 4)


def helix(engine: Engine, draft_tokens: int | None, prompts: Answers, most: int) -> Answers:
    """Helix, all requests submitted at once."""
    handles = [engine.submit(prompt, max_tokens=most, temperature=0, draft_tokens=draft_tokens) for prompt in prompts]
    return [handle.result().tokens for handle in handles]


@dataclass
class Row:
    """One arm with so many at once: tokens a second of each repeat, and what it answered."""

    at_once: int
    name: str
    tokens_per_s: list[float] = field(default_factory=list)
    answers: Answers = field(default_factory=list)

    def over(self, other: Row) -> Spread:
        """Its speed by another's, repeat by repeat."""
        return Spread.of([own / its for own, its in zip(self.tokens_per_s, other.tokens_per_s, strict=True)])


@contextmanager
def arms(pair: Pair, loaded: Pair, at_once: int, few: bool = False) -> Iterator[dict[str, Arm]]:
    """Every arm by its name, or the few that are judged, while an engine for so many at once is open."""
    config = EngineConfig(max_sequences=at_once, prefix_cache=False)
    with Engine(pair, config) as engine:
        engine.calibrate()  # as `load` does
        named: dict[str, Arm] = {
            FAIR: partial(baselines.batch, pair, at_once),
            **({} if few or loaded is pair else {LOADED: partial(baselines.batch, loaded, at_once)}),
            PLAIN: partial(helix, engine, 0),
        }
        if engine.has_draft:
            named |= {f"helix K={count}": partial(helix, engine, count) for count in FIXED if not few}
            named[DEFAULT] = partial(helix, engine, None)
        yield named


def measure(named: dict[str, Arm], at_once: int, prompts: Answers, most: int, repeats: int) -> dict[str, Row]:
    """Every arm in turn; each answers a few first that do not count."""
    rows = {name: Row(at_once, name) for name in named}
    for arm in named.values():
        arm(prompts[:at_once], 8)
    for repeat in range(repeats):
        turn = repeat % len(named)
        half = prompts[repeat % 2 :: 2]
        for name in [*named][turn:] + [*named][:turn]:
            began = time.perf_counter()
            rows[name].answers = named[name](half, most)
            seconds = time.perf_counter() - began
            rows[name].tokens_per_s.append(sum(map(len, rows[name].answers)) / seconds)
    return rows


def show(rows: dict[str, Row]) -> None:
    """Print the arms of one number at once."""
    fair, plain = rows[FAIR], rows[PLAIN]
    click.echo(f"\n{fair.at_once} at once")
    shown = []
    for name, row in rows.items():
        other = sum(own != its for own, its in zip(row.answers, fair.answers, strict=True))
        speed = f"{Spread.of(row.tokens_per_s).median:.1f}"
        shown.append([name, speed, str(row.over(fair)), str(row.over(plain)), other])
    table(["", "tokens/s", "x mlx-lm (quartiles)", "x helix K=0 (quartiles)", "other answers"], shown)


def judge(rows: dict[str, Row]) -> list[Asked]:
    """What was asked for one number at once."""
    fair, plain = rows[FAIR], rows[PLAIN]
    at_once = fair.at_once
    ratio = plain.over(fair)
    found = [Asked(f"{at_once} at once, without a draft, by mlx-lm", "at least 1", str(ratio), ratio.median >= 1)]
    if DEFAULT not in rows:
        return found
    drafted = rows[DEFAULT]
    ratio = drafted.over(plain)
    if at_once == max(AT_ONCE):
        found.append(Asked(f"{at_once} at once, with a draft, by none", "at least 1", str(ratio), ratio.median >= 1))
        return found
    theirs = drafted.over(fair)
    found.append(Asked(f"{at_once} at once, with a draft, by mlx-lm", "above 1", str(theirs), theirs.median > 1))
    found.append(Asked(f"{at_once} at once, with a draft, by none", "above 1", str(ratio), ratio.median > 1))
    return found
