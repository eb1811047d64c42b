"""Simulates the draft-length controller on acceptance traces and any cost table: a model, not a measurement.

    helix-mlx bench simulation [--draft-cost 0.1] [--tokens 2000] [--out FILE]

A trace tells for each position of a text how likely its draft is kept. The controller sees what was kept, never the
trace. It is compared with plain decoding, with every fixed draft length, and with the best of those in hindsight.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from helix_mlx.bench.output.command import Measured, measurement
from helix_mlx.request import MAX_DRAFT_TOKENS
from helix_mlx.speculative.acceptance import Acceptance
from helix_mlx.speculative.cost_model import CostModel, CostTable
from helix_mlx.speculative.draft_length import Candidate, DraftLengthController
from helix_mlx.speculative.registry import MODEL
from helix_mlx.toml import read_toml

Trace = Sequence[float]
"""The acceptance probability of each position."""
Told = Callable[[int, int, float, int], None]
"""Is told a cycle's K, the drafts kept, its seconds, and the tokens that the draft has missed after it."""
READ_TOGETHER = 32
"""Known tokens that a draft reads, in one pass, in the time of one step."""
NOISE = 0.05
"""Standard deviation of a cycle's logarithm of seconds."""


def traces(length: int) -> dict[str, list[float]]:
    """Texts whose drafts are kept steadily, drift, jump, or come in stretches."""
    at = range(length)
    return {
        **{f"steady {chance}": [chance] * length for chance in (0.02, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)},
        "drifting up": [0.2 + 0.7 * i / length for i in at],
        "drifting down": [0.9 - 0.7 * i / length for i in at],
        "jumping": [0.9 if i * 4 // length % 2 else 0.15 for i in at],
        "stretches": [0.95 if i // 60 % 2 else 0.5 for i in at],
        "alternating": [0.9 if i // 12 % 2 else 0.3 for i in at],
    }


def cost_tables(draft_cost: float, folder: Path | None = None) -> dict[str, CostTable]:
    """The shipped cost tables, in passes of one row, with a draft step of `draft_cost` passes."""
    path = (folder or Path(__file__).parent) / "cost_tables.toml"
    found = {}
    for name, entry in read_toml(path).items():
        costs = tuple(interpolated(entry["rows"], entry["cost"], rows) for rows in range(1, MAX_DRAFT_TOKENS + 2))
        found[name] = CostTable(costs, draft_cost, draft_cost / READ_TOGETHER)
    return found


def interpolated(rows: Sequence[int], costs: Sequence[float], at: int) -> float:
    """The cost of `at` rows, on the line between the measured neighbours."""
    after = next(index for index, row in enumerate(rows) if row >= at)
    if rows[after] == at:
        return costs[after]
    share = (at - rows[after - 1]) / (rows[after] - rows[after - 1])
    return costs[after - 1] + share * (costs[after] - costs[after - 1])


@dataclass(frozen=True)
class Run:
    """What a way of choosing K came to: tokens a second, in tokens a pass of one row."""

    speed: float
    cycles: int
    drafted: int


def run(trace: Trace, cost_table: CostTable, choose: Callable[[int], int], chance: random.Random, told: Told) -> Run:
    """Go through a trace; `choose` is told the tokens left, and `told` what came of it."""
    position, seconds, cycles, drafted = 0, 0.0, 0, 0
    behind = 0
    while position < len(trace):
        count = choose(len(trace) - position)
        cost = cost_table.cycle_s(count) * chance.lognormvariate(0.0, NOISE)
        catch_up = behind * cost_table.draft_read_s if count else 0.0
        kept = 0
        while kept < min(count, len(trace) - position - 1) and chance.random() < trace[position + kept]:
            kept += 1
        told(count, kept, cost, behind + 1 if not count else 0)
        behind = behind + 1 if not count else 0
        position += kept + 1
        seconds += cost + catch_up
        cycles += 1
        drafted += count
    return Run(len(trace) / seconds, cycles, drafted)


class Controlled:
    """The controller on one sequence, as the engine drives it."""

    def __init__(self, cost_table: CostTable, guess: CostTable | None = None) -> None:
        self._costs = CostModel(guess or cost_table)
        self._acceptance = Acceptance()
        self._length = DraftLengthController()
        self._length.begin()
        self._behind = 0

    def choose(self, left: int) -> int:
        """K of the next cycle."""
        cost_table = self._costs.cost_table
        candidate = Candidate(
            MODEL, self._acceptance, MAX_DRAFT_TOKENS, self._costs.cycle_s, self._behind * cost_table.draft_read_s
        )
        return self._length.choose([candidate], self._costs.cycle_s(0), left).count

    def told(self, count: int, kept: int, seconds: float, behind: int) -> None:
        """What came of it."""
        self._costs.note(count, True, seconds)
        if count:
            self._acceptance.note(count, kept)
            self._length.note(count, kept)
        self._behind = behind


def compare(trace: Trace, cost_table: CostTable, seed: int) -> dict[str, float]:
    """Speeds of the controller, of plain decoding and of every fixed K, each with the same chances."""
    controlled = Controlled(cost_table)
    speeds = {"auto": run(trace, cost_table, controlled.choose, random.Random(seed), controlled.told).speed}
    for count in range(MAX_DRAFT_TOKENS + 1):

        def fixed(left: int, count: int = count) -> int:
            return min(count, left - 1)

        speeds[str(count)] = run(trace, cost_table, fixed, random.Random(seed), lambda *_: None).speed
    return speeds


@measurement
@click.option(
    "--draft-cost",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0),
    help="Cost of a draft step, in target passes of one row.",
)
@click.option("--tokens", default=2000, show_default=True, type=click.IntRange(1), help="Tokens per text.")
@click.option("--seeds", default=8, show_default=True, type=click.IntRange(1), help="Texts per trace.")
def main(draft_cost: float, tokens: int, seeds: int) -> Measured:
    """Model (not measure) what auto would gain on Macs, from published measurements."""
    click.echo(f"A model, not a measurement. A draft step costs {draft_cost} of a target pass of one row.")
    rows = []
    for name, cost_table in cost_tables(draft_cost).items():
        click.echo(f"\n{name:14} {'auto':>6} {'plain':>6} {'best K':>7} {'by plain':>9} {'by best':>8}")
        for kind, trace in traces(tokens).items():
            found = [compare(trace, cost_table, seed) for seed in range(seeds)]
            speeds = {key: sum(each[key] for each in found) / seeds for key in found[0]}
            auto, plain = speeds.pop("auto"), speeds["0"]
            best = max(speeds, key=lambda key: speeds[key])
            rows.append({"cost_table": name, "trace": kind, "auto": auto, "fixed": speeds})
            click.echo(
                f"{kind:14} {auto:6.2f} {plain:6.2f} {speeds[best]:5.2f}@{best} {auto / plain:9.3f} "
                f"{auto / speeds[best]:8.3f}"
            )
    tables = {name: asdict(cost_table) for name, cost_table in cost_tables(draft_cost).items()}
    return {"model": True, "cost_tables": tables, "rows": rows}, []
