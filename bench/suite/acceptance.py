"""How many drafts are kept, by position, workload and temperature: what a pair is worth, whatever the machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from helix_mlx.bench.fixtures.prompts import WORKLOADS, filled
from helix_mlx.bench.output.tables import table
from helix_mlx.engine.acceptance_counts import AcceptanceCounts, count_acceptance
from helix_mlx.engine.engine import Engine
from helix_mlx.request import MAX_DRAFT_TOKENS
from helix_mlx.speculative.acceptance import expected_tokens
from helix_mlx.speculative.cost_model import CostTable

Progress = Callable[[int, int], None]


def measure(
    engine: Engine, temperatures: tuple[float, ...], prompts: int, max_tokens: int, progress: Progress
) -> list[AcceptanceCounts]:
    """Answer every workload with the longest drafts, by the model where there is one, and by n-grams."""
    drafters = ["model", "ngram"] if engine.pair.draft else ["ngram"]
    combinations = [(w, t, d) for w in WORKLOADS for t in temperatures for d in drafters]
    found = []
    for number, (workload, temperature, drafter) in enumerate(combinations):
        asked = [filled(engine, workload, prompt, None) for prompt in range(prompts)]
        found.append(count_acceptance(engine, asked, workload, temperature, drafter, max_tokens))
        progress(number + 1, len(combinations))
    return found


@dataclass(frozen=True)
class Promise:
    """What drafts of one drafter would gain at a temperature, by a ladder of costs: the best K, 0 where none pays.

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
            return f"temperature {self.temperature:g}, {self.drafter}: no drafts would pay"
        return (
            f"temperature {self.temperature:g}, {self.drafter}: {self.best} a cycle would be "
            f"{self.gains[self.best]:.2f} times plain decoding"
        )


def promises(found: list[AcceptanceCounts], ladder: CostTable) -> list[Promise]:
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
        costs = [ladder.cycle_s(count, uses_model=drafter == "model") for count in range(MAX_DRAFT_TOKENS + 1)]
        gains = tuple(each * costs[0] / cost for each, cost in zip(tokens, costs, strict=True))
        made.append(Promise(temperature, drafter, max(range(len(gains)), key=lambda count: gains[count]), gains))
    return made


def show(found: list[AcceptanceCounts], line: Callable[[str], None]) -> None:
    """Print the chance of each draft, where those before it were kept."""
    line("\nThe chance that a draft is kept, where those before it were, by position")
    heads = ["", *(str(position) for position in range(1, MAX_DRAFT_TOKENS + 1)), "tokens a cycle"]
    rows = []
    for each in found:
        chances = [f"{chance:.2f}" for chance in each.chances]
        name = f"{each.workload}, {each.temperature:g}, {each.drafter}"
        rows.append([name, *(chances + ["-"] * MAX_DRAFT_TOKENS)[:MAX_DRAFT_TOKENS], f"{each.tokens_per_cycle:.2f}"])
    table(heads, rows)
