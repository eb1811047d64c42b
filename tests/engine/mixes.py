"""Random mixes of requests that arrive, cancel, fork and are preempted, and what each would say alone."""

from __future__ import annotations

import random
from collections.abc import Sequence as Seq
from dataclasses import replace

from helix_mlx.config import EngineConfig
from helix_mlx.engine.core import EngineCore
from helix_mlx.engine.engine import Engine
from helix_mlx.engine.scheduling.draft_policy import AdaptiveDraftPolicy, estimated_cost_table
from helix_mlx.engine.scheduling.sequence import Sequence
from helix_mlx.models.mtp.load import head_of
from helix_mlx.models.pair import Pair
from helix_mlx.request import SamplingParams
from tests.support import pool_addresses, prompt

LONGEST = 44
PROMPTS = [
    prompt(length, 1)[: length // 2] + prompt(length - length // 2, length) for length in (1, 2, 9, 17, 24, 33, 40)
]
SETTINGS = [SamplingParams(), SamplingParams(temperature=0.9, seed=7), SamplingParams(temperature=1.2, seed=8, top_k=9)]


class Oracle:
    """What each request says alone, plainly, without pages that anybody read before."""

    def __init__(self, pair: Pair) -> None:
        self.engine = Engine(replace(pair, draft=None), EngineConfig(max_context=128, prefix_cache=False))
        self._known: dict[tuple[int, SamplingParams], list[int]] = {}

    def __call__(self, number: int, params: SamplingParams) -> list[int]:
        """The first LONGEST tokens."""
        key = number, replace(params, max_tokens=LONGEST)
        if key not in self._known:
            self._known[key] = self.engine.generate(PROMPTS[number], key[1]).tokens
        return self._known[key]


class AtRandom(AdaptiveDraftPolicy):
    """Changes its mind in every cycle, more than costs ever would make it."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(estimated_cost_table(0.1))
        self._chance = chance

    def choose(self, decoding: Seq[Sequence], most: int) -> None:
        super().choose(decoding, most)
        for sequence in decoding:
            if sequence.drafting.is_adaptive:
                drafter = self._chance.choice([*sequence.drafting.drafters, "none"])
                sequence.drafting.set_next(drafter, 0 if drafter == "none" else self._chance.randint(0, 7))

    def wants_drafts(self, decoding: Seq[Sequence], most: int) -> bool:
        super().wants_drafts(decoding, most)
        return self._chance.random() < 0.3


class Mix:
    """A core that is driven a step at a time, and what is expected of it."""

    def __init__(self, core: EngineCore, chance: random.Random) -> None:
        self.core = core
        self.chance = chance
        self.by_model = "model" if head_of(core.pair.draft) is None else "mtp"
        self.addresses: dict[int, list[int]] = {}
        self.live: dict[Sequence, tuple[int, SamplingParams]] = {}
        self.ended: list[tuple[Sequence, tuple[int, SamplingParams]]] = []

    def arrive(self) -> None:
        chance = self.chance
        number, params = chance.randrange(len(PROMPTS)), chance.choice(SETTINGS)
        params = replace(params, max_tokens=chance.randint(1, LONGEST))
        count, priority = chance.choice((None, None, 0, 1, 2, 4, 7)), chance.choice((0, 0, 0, 1))
        drafter = chance.choice((None, None, self.by_model, "ngram", "none"))
        group = []
        for index in range(chance.choice((1, 1, 1, 1, 2, 4))):
            if params.seed is not None:
                params = replace(params, seed=params.seed + min(index, 1))
            sequence = self.core.sequence(PROMPTS[number], params, count, drafter)
            sequence.priority, sequence.index = priority, index
            self.live[sequence] = number, params
            group.append(sequence)
        group[0].copies = group[1:]
        self.core.runner.add(group[0])

    def step(self) -> None:
        events = self.core.runner.step()
        for sequence, chunks in events:
            if chunks[-1].finish_reason is not None:
                self.ended.append((sequence, self.live.pop(sequence)))

    def run(self, steps: int) -> None:
        """So many steps in which requests come and go, and as many more as the last of them need."""
        for step in range(11 * steps):
            if step < steps:
                if self.chance.random() < 0.25 and len(self.live) < 16:
                    self.arrive()
                if self.chance.random() < 0.03 and self.live:
                    self.chance.choice(list(self.live)).cancel_wanted = True
            elif not self.live:
                break
            self.step()
            # Nothing but growing moves the pool.
            now = pool_addresses(self.core)
            assert self.addresses.setdefault(self.core.pool.allocator.pages_total, now) == now
        assert not self.live

    def check(self, oracle: Oracle) -> None:
        for sequence, (number, params) in self.ended:
            expected = oracle(number, params)[: params.max_tokens]
            if sequence.finish_reason == "cancelled":
                assert sequence.emitted == expected[: len(sequence.emitted)]
            else:
                assert sequence.emitted == expected, (number, params, sequence.drafting.draft_tokens, sequence.stats)
        allocator = self.core.pool.allocator
        assert allocator.pages_used == 0
        assert allocator.pages_free == allocator.pages_total <= self.core.pool.pages_most
