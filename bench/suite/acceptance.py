"""How many drafts are accepted, which depends on the pair and not on the machine.

By position, workload and temperature; then in all, and with the time to the first token, beside mlx-lm's own
speculation with the same models, prompts and draft length. There both sides draw their own tokens, so above
temperature 0 the texts differ.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from helix_mlx.bench.fixtures import baselines
from helix_mlx.bench.fixtures.answers import Answer, Ask
from helix_mlx.bench.fixtures.prompts import WORKLOADS, Prompt, filled
from helix_mlx.bench.output.tables import table
from helix_mlx.bench.suite.arms import helix_arm
from helix_mlx.engine.acceptance_counts import AcceptanceCounts, count_acceptance, drafters_of
from helix_mlx.engine.engine import Engine
from helix_mlx.request import MAX_DRAFT_TOKENS
from helix_mlx.speculative.acceptance import expected_tokens
from helix_mlx.speculative.cost_model import CostTable
from helix_mlx.speculative.registry import NGRAM
from helix_mlx.types import Notice, Progress

BESIDE_TEMPERATURES, BESIDE_DRAFTS = (0.0, 0.8, 1.0), 4
"""Of the comparison with mlx-lm's speculation."""


def measure(
    engine: Engine, temperatures: tuple[float, ...], prompts: int, max_tokens: int, progress: Progress
) -> list[AcceptanceCounts]:
    """Answer every workload with the longest drafts, by the model where there is one, and by n-grams."""
    drafters = drafters_of(engine)
    combinations = [(w, t, d) for w in WORKLOADS for t in temperatures for d in drafters]
    found = []
    for number, (workload, temperature, drafter) in enumerate(combinations):
        asked = [filled(engine, workload, prompt, None) for prompt in range(prompts)]
        found.append(count_acceptance(engine, asked, workload, temperature, drafter, max_tokens))
        progress(number + 1, len(combinations))
    return found


@dataclass(frozen=True)
class Promise:
    """What drafts of one drafter would gain at a temperature, by a cost table: the best K, 0 where none pays.

    `gains[K]` is how many times plain decoding K drafts are; with n-grams that holds for cycles that find some.
    """

    temperature: float
    drafter: str
    best: int
    gains: tuple[float, ...]

    @property
    def told(self) -> str:
        """In a few words."""
        if not self.best:
            return f"temperature {self.temperature:g}, {self.drafter}: drafting would not pay off"
        return (
            f"temperature {self.temperature:g}, {self.drafter}: {self.best} drafts per cycle would be "
            f"{self.gains[self.best]:.2f} times plain decoding"
        )


def promises(found: list[AcceptanceCounts], cost_table: CostTable) -> list[Promise]:
    """What was kept over all workloads, by what cycles cost."""
    made = []
    for temperature, drafter in dict.fromkeys((each.temperature, each.drafter) for each in found):
        part = [each for each in found if (each.temperature, each.drafter) == (temperature, drafter)]
        positions = tuple(sum(column) for column in zip(*(each.by_position for each in part), strict=True))
        whole = AcceptanceCounts(
            "all", temperature, drafter, sum(e.cycles for e in part), sum(e.drafted for e in part), positions
        )
        chances = (whole.chances or [0.0])[:MAX_DRAFT_TOKENS]
        tokens = expected_tokens(chances + [chances[-1]] * (MAX_DRAFT_TOKENS - len(chances)))
        costs = [cost_table.cycle_s(count, uses_model=drafter != NGRAM) for count in range(MAX_DRAFT_TOKENS + 1)]
        gains = tuple(each * costs[0] / cost for each, cost in zip(tokens, costs, strict=True))
        made.append(Promise(temperature, drafter, max(range(len(gains)), key=lambda count: gains[count]), gains))
    return made


def show(found: list[AcceptanceCounts], line: Notice) -> None:
    """Print the chance of each draft, where those before it were kept."""
    line("\nChance that a draft is accepted, given that those before it were, by position")
    heads = ["", *(str(position) for position in range(1, MAX_DRAFT_TOKENS + 1)), "tokens/cycle"]
    rows = []
    for each in found:
        chances = [f"{chance:.2f}" for chance in each.chances]
        name = f"{each.workload}, {each.temperature:g}, {each.drafter}"
        rows.append([name, *(chances + ["-"] * MAX_DRAFT_TOKENS)[:MAX_DRAFT_TOKENS], f"{each.tokens_per_cycle:.2f}"])
    table(heads, rows)


@dataclass(frozen=True)
class Beside:
    """All answers of both sides at one temperature, in the same order."""

    temperature: float
    mlx_lm: list[Answer] = field(default_factory=list)
    helix: list[Answer] = field(default_factory=list)

    @property
    def first_token_ratio(self) -> float:
        """Helix's time to the first token by mlx-lm's: the median of pairs."""
        pairs = zip(self.helix, self.mlx_lm, strict=True)
        return statistics.median(ours.first_s / theirs.first_s for ours, theirs in pairs)

    def to_json(self) -> list[dict[str, Any]]:
        """For a receipt: a row a side."""
        return [
            {
                "arm": name,
                "temperature": self.temperature,
                "drafted": sum(answer.drafted for answer in answers),
                "accepted": sum(sum(answer.accepted_by_position) for answer in answers),
                "acceptance": acceptance(answers),
                "emitted": sum(len(answer.tokens) for answer in answers),
                "first_s": [answer.first_s for answer in answers],
                "tokens_per_s": [answer.tokens_per_s for answer in answers],
            }
            for name, answers in (("mlx-lm", self.mlx_lm), ("helix", self.helix))
        ]


def acceptance(answers: Sequence[Answer]) -> float:
    """Drafts kept for each draft proposed."""
    drafted = sum(answer.drafted for answer in answers)
    return sum(sum(answer.accepted_by_position) for answer in answers) / drafted if drafted else 0.0


def beside_mlx_lm(
    engine: Engine, prompts: Sequence[Prompt], temperatures: Sequence[float], repeats: int, max_tokens: int
) -> list[Beside]:
    """Both sides over all prompts, in turn, by the very same models; each answers one before that does not count.

    Args:
        engine: a pair with a draft, without a prefix cache, since mlx-lm reads every prompt anew.
        prompts: what is answered.
        temperatures: each is a result of its own.
        repeats: times that each prompt is answered.
        max_tokens: longest answer.
    """
    found = []
    for temperature in temperatures:
        mx.random.seed(0)
        beside = Beside(temperature)
        sides = [
            (lambda ask: baselines.answer(engine.pair, BESIDE_DRAFTS, ask), beside.mlx_lm),
            (lambda ask: helix_arm(engine, BESIDE_DRAFTS, "model", ask), beside.helix),
        ]
        for run, _ in sides:
            run(Ask(prompts[0].tokens(engine), 8, temperature, None))
        for repeat in range(repeats):
            for prompt in prompts:
                ask = Ask(prompt.tokens(engine), max_tokens, temperature, None)
                for run, answers in sides[:: -1 if repeat % 2 else 1]:
                    answers.append(run(ask))
        found.append(beside)
    return found


def show_beside(found: Sequence[Beside], line: Notice) -> None:
    """Print what was kept, and the first token, of both sides at each temperature."""
    line(f"\nShare of drafts accepted, {BESIDE_DRAFTS} per cycle, and median time to first token")
    rows = []
    for each in found:
        theirs, ours = acceptance(each.mlx_lm), acceptance(each.helix)
        first = [f"{statistics.median(a.first_s for a in side) * 1e3:.1f} ms" for side in (each.mlx_lm, each.helix)]
        ratio = f"{ours / theirs:.2f}" if theirs else "-"
        name = f"temperature {each.temperature:g}"
        rows.append([name, f"{theirs:.3f}", f"{ours:.3f}", ratio, *first, f"{each.first_token_ratio:.2f}"])
    table(["", "mlx-lm", "helix", "ratio", "first, mlx-lm", "first, helix", "ratio of pairs"], rows)
