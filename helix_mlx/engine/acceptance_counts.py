"""How many drafts a target keeps on given prompts, by position: what a draft is worth, whatever the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from helix_mlx.engine.engine import Engine
from helix_mlx.engine.requests import served_by
from helix_mlx.request import MAX_DRAFT_TOKENS, Request, SamplingParams
from helix_mlx.speculative.registry import AUTO, candidates


@dataclass(frozen=True)
class AcceptanceCounts:
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
    def acceptance(self) -> float:
        """Chance that a draft is accepted where those before it were, over all positions; 0 where none was drafted."""
        asked = self.cycles + sum(self.by_position[:-1])
        return sum(self.by_position) / asked if asked else 0.0

    @property
    def tokens_per_cycle(self) -> float:
        """Drafts kept, and one of the target's own."""
        return 1 + sum(self.by_position) / self.cycles if self.cycles else 1.0

    def to_json(self) -> dict[str, Any]:
        """For a receipt."""
        return {
            **asdict(self),
            "chances": self.chances,
            "acceptance": self.acceptance,
            "tokens_per_cycle": self.tokens_per_cycle,
        }


def drafters_of(engine: Engine) -> list[str]:
    """The names of those who can draft for an engine's pair: its model or head first, where there is one."""
    return list(candidates(AUTO, served_by(engine.pair)))


def count_acceptance(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    workload: str,
    temperature: float,
    drafter: str,
    max_tokens: int,
    draft_tokens: int = MAX_DRAFT_TOKENS,
) -> AcceptanceCounts:
    """Answer prompts with drafts of one length, all at once.

    Args:
        engine: whose pair drafts and checks.
        prompts: token ids of each.
        workload: what to call them.
        temperature: of all answers; their seeds are their places in `prompts`.
        drafter: its name.
        max_tokens: the longest answer.
        draft_tokens: drafts a cycle.
    """
    handles = []
    for seed, tokens in enumerate(prompts):
        params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed if temperature else None)
        handles.append(engine.submit(Request(list(tokens), params, draft_tokens, drafter)))
    cycles, drafted, positions = 0, 0, [0] * draft_tokens
    for handle in handles:
        stats = handle.result().stats
        cycles += sum(stats.cycles_by_draft_length[1:])
        drafted += stats.drafted
        for index, count in enumerate(stats.accepted_by_position):
            positions[index] += count
    return AcceptanceCounts(workload, temperature, drafter, cycles, drafted, tuple(positions))
