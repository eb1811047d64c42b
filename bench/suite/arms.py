"""The sides of a comparison: mlx-lm plain and with the draft, Helix plain, with fixed draft lengths, n-grams and auto.

Every arm answers a prompt of token ids and tells when each token came. All stop where their own answer ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generate_step, speculative_generate_step
from mlx_lm.sample_utils import make_sampler

from helix_mlx.engine.engine import Engine
from helix_mlx.errors import SettingsError
from helix_mlx.models.pair import Pair
from helix_mlx.request import MAX_DRAFT_TOKENS, Request, SamplingParams

PLAIN, AUTO, NGRAM, THEIRS = "helix plain", "helix auto", "helix n-gram", "mlx-lm plain"
THEIR_LENGTHS = (2, 3, 4)
"""Draft lengths of mlx-lm's own speculation."""
NGRAM_LENGTH = 4
"""The draft length of n-grams where it is fixed."""


@dataclass
class Answer:
    """What an arm said, and when. Seconds; `came_s[i]` is when token i was there, from the request on."""

    tokens: list[int] = field(default_factory=list)
    came_s: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    drafted: int = 0
    accepted_by_position: list[int] = field(default_factory=list)
    cycles_by_draft_length: list[int] = field(default_factory=list)
    target_passes: int = 0
    host_syncs: int = 0

    @property
    def first_s(self) -> float:
        """Time to the first token."""
        return self.came_s[0]

    @property
    def total_s(self) -> float:
        """Time to the last one."""
        return self.came_s[-1]

    @property
    def tokens_per_s(self) -> float:
        """All tokens by all seconds, the prompt's included."""
        return len(self.tokens) / self.total_s

    @property
    def gaps_s(self) -> list[float]:
        """Time between tokens as they arrive; those of one cycle come together."""
        return [later - sooner for sooner, later in zip(self.came_s, self.came_s[1:], strict=False)]


@dataclass(frozen=True)
class Ask:
    """A prompt, and how to answer it; `seed` keeps two arms of Helix from saying different things."""

    tokens: list[int]
    max_tokens: int
    temperature: float
    seed: int


Arm = Callable[[Ask], Answer]


def mlx_lm_arm(pair: Pair, count: int, ask: Ask) -> Answer:
    """mlx-lm's `generate_step`, or with K drafts a cycle its `speculative_generate_step`."""
    target: Any = pair.target.model
    prompt, sampler = mx.array(ask.tokens), make_sampler(ask.temperature)
    mx.random.seed(ask.seed)
    mx.reset_peak_memory()
    began = time.perf_counter()
    answer = Answer()
    steps: Iterator[Any]
    if count:
        assert pair.draft is not None
        draft: Any = pair.draft.model
        steps = speculative_generate_step(
            prompt, target, draft, num_draft_tokens=count, max_tokens=ask.max_tokens, sampler=sampler
        )
    else:
        steps = generate_step(prompt, target, max_tokens=ask.max_tokens, sampler=sampler)
    run = 0
    for token, *rest in steps:
        answer.came_s.append(time.perf_counter() - began)
        answer.tokens.append(int(token))
        from_draft = bool(count) and bool(rest[-1])
        run = _note_their_token(answer, from_draft, run, count)
        if int(token) in pair.tokenizer.eos_ids:
            break
    answer.peak_bytes = mx.get_peak_memory()
    return answer


def _note_their_token(answer: Answer, from_draft: bool, run: int, count: int) -> int:
    """Count what mlx-lm keeps: a token of the target's own ends a cycle. Returns the drafts kept in it so far."""
    if not run:
        answer.target_passes += 1
        answer.drafted += count
    if not from_draft:
        return 0
    answer.accepted_by_position += [0] * (run + 1 - len(answer.accepted_by_position))
    answer.accepted_by_position[run] += 1
    return run + 1


def helix_arm(engine: Engine, draft_tokens: int | None, drafter: str | None, ask: Ask) -> Answer:
    """Helix, through the same call as a program's."""
    params = SamplingParams(
        max_tokens=ask.max_tokens, temperature=ask.temperature, seed=ask.seed if ask.temperature else None
    )
    mx.reset_peak_memory()
    began = time.perf_counter()
    answer = Answer()
    for chunk in engine.submit(Request(ask.tokens, params, draft_tokens, drafter)):
        if chunk.token is not None:
            answer.came_s.append(time.perf_counter() - began)
            answer.tokens.append(chunk.token)
    stats = chunk.stats
    assert stats is not None
    answer.drafted, answer.accepted_by_position = stats.drafted, stats.accepted_by_position
    answer.cycles_by_draft_length = stats.cycles_by_draft_length
    answer.target_passes, answer.host_syncs = stats.target_passes, stats.host_syncs
    answer.peak_bytes = mx.get_peak_memory()
    return answer


def all_arms(theirs: Pair, ours: Engine, *, few: bool = False) -> dict[str, Arm]:
    """Every arm by its name: mlx-lm's, then Helix plain and auto, which take their turns side by side.

    Args:
        theirs: the pair as mlx-lm loads it.
        ours: Helix on the same weights.
        few: leave out draft lengths of which the others tell enough.
    """
    named: dict[str, Arm] = {THEIRS: partial(mlx_lm_arm, theirs, 0)}
    if theirs.draft is not None:
        lengths = THEIR_LENGTHS[1:2] if few else THEIR_LENGTHS
        named |= {f"mlx-lm K={count}": partial(mlx_lm_arm, theirs, count) for count in lengths}
    named[PLAIN] = partial(helix_arm, ours, 0, None)
    named[AUTO] = partial(helix_arm, ours, None, None)
    named[NGRAM] = partial(helix_arm, ours, NGRAM_LENGTH, "ngram")
    if theirs.draft is not None:
        fixed = (2, 4) if few else range(1, MAX_DRAFT_TOKENS + 1)
        named |= {f"helix K={count}": partial(helix_arm, ours, count, "model") for count in fixed}
    return named


def chosen_arms(named: dict[str, Arm], wanted: Sequence[str]) -> dict[str, Arm]:
    """Those that are asked for, with Helix plain and auto; all where none is.

    Raises:
        SettingsError: there is no arm of such a name.
    """
    for name in wanted:
        if name not in named:
            raise SettingsError(f'there is no arm "{name}" for this pair; there are: {", ".join(named)}')
    return {name: arm for name, arm in named.items() if not wanted or name in (PLAIN, AUTO, *wanted)}
