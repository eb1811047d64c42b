"""How many drafts are kept, by position, workload and temperature: what a pair is worth, whatever the machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from helix_mlx.bench.prompts import WORKLOADS, filled
from helix_mlx.bench.report import table
from helix_mlx.engine.engine import Engine
from helix_mlx.request import MAX_DRAFT_TOKENS, Request, SamplingParams

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Kept:
    """What a drafter's drafts came to. `by_position[i]` counts cycles that kept at least i + 1 drafts."""

    workload: str
    temperature: float
    drafter: str
    cycles: int
    drafted: int
    by_position: tuple[int, ...]

    @property
    def chances(self) -> list[float]:
        """The chance of draft i where all before it were kept; up to the first that was never reached."""
        found, before = [], self.cycles
        for count in self.by_position:
            if not before:
                break
            found.append(count / before)
            before = count
        return found

    @property
    def tokens_per_cycle(self) -> float:
        """Drafts kept, and one of the target's own."""
        return 1 + sum(self.by_position) / self.cycles if self.cycles else 1.0

    def to_json(self) -> dict[str, Any]:
        """For a receipt."""
        return {**asdict(self), "chances": self.chances, "tokens_per_cycle": self.tokens_per_cycle}


def measure(
    engine: Engine, temperatures: tuple[float, ...], prompts: int, max_tokens: int, progress: Progress
) -> list[Kept]:
    """Answer every workload with the longest drafts, by the model where there is one, and by n-grams."""
    drafters = ["model", "ngram"] if engine.pair.draft else ["ngram"]
    combinations = [(w, t, d) for w in WORKLOADS for t in temperatures for d in drafters]
    found = []
    for number, (workload, temperature, drafter) in enumerate(combinations):
        cycles, drafted, positions = 0, 0, [0] * MAX_DRAFT_TOKENS
        for prompt in range(prompts):
            params = SamplingParams(
                max_tokens=max_tokens, temperature=temperature, seed=prompt if temperature else None
            )
            tokens = filled(engine, workload, prompt, None)
            stats = engine.submit(Request(tokens, params, MAX_DRAFT_TOKENS, drafter)).result().stats
            cycles += sum(stats.cycles_by_draft_length[1:])
            drafted += stats.drafted
            for index, count in enumerate(stats.accepted_by_position):
                positions[index] += count
        found.append(Kept(workload, temperature, drafter, cycles, drafted, tuple(positions)))
        progress(number + 1, len(combinations))
    return found


def show(found: list[Kept], line: Callable[[str], None]) -> None:
    """Print the chance of each draft, where those before it were kept."""
    line("\nThe chance that a draft is kept, where those before it were, by position")
    heads = ["", *(str(position) for position in range(1, MAX_DRAFT_TOKENS + 1)), "tokens a cycle"]
    rows = []
    for each in found:
        chances = [f"{chance:.2f}" for chance in each.chances]
        name = f"{each.workload}, {each.temperature:g}, {each.drafter}"
        rows.append([name, *(chances + ["-"] * MAX_DRAFT_TOKENS)[:MAX_DRAFT_TOKENS], f"{each.tokens_per_cycle:.2f}"])
    table(heads, rows)
