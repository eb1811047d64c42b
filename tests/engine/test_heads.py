"""A multi-token-prediction head as a drafter: the text is the target's own, and the head sees what it should see."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import KVCache

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.models.mtp.load import head_of
from helix_mlx.models.pair import Pair
from helix_mlx.paging.page_pool import DRAFT
from helix_mlx.request import SamplingParams
from helix_mlx.speculative.drafter import DraftContext, ModelDrafter
from helix_mlx.speculative.verification.types import Draft
from tests.engine.mixes import PROMPTS, AtRandom, Mix, Oracle
from tests.heads import foreseeing_pair, headed_pair, random_head, target_of, trained_head
from tests.support import plain, prompt

NEW = 22
PAGE = 8
TEXTS = [prompt(length, length) for length in (1, 5, 16, 33, 64, 17)]
FAMILIES = ("llama", "deepseek_v3", "glm4_moe", "glm4_moe_lite", "mimo", "qwen3_5", "qwen3_5_moe", "qwen3_next")
LIKELIEST, DRAWN = SamplingParams(max_tokens=NEW), SamplingParams(max_tokens=NEW, temperature=0.9, seed=5)


def config(**changes: Any) -> EngineConfig:
    given: dict[str, Any] = {"page_size": PAGE, "max_context": 256, "prefill_chunk": 24, "max_rows": 64, **changes}
    return EngineConfig(**given)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_is_the_targets_own(family: str) -> None:
    """Greedy it is mlx-lm's, seeded that of no drafts; in a batch, at every draft length."""
    target = target_of(family)
    prompts = TEXTS[:4]
    expected = [plain(target.model, tokens, NEW) for tokens in prompts]
    with Engine(headed_pair(target, random_head(target)), config()) as engine:
        expected += [done.tokens for done in engine.generate(prompts, DRAWN, draft_tokens=0)]
        for count in (1, 4, 7):
            together = engine.generate(prompts * 2, [LIKELIEST] * 4 + [DRAWN] * 4, draft_tokens=count)
            assert [done.tokens for done in together] == expected
            assert engine.generate(prompts[3], LIKELIEST, draft_tokens=count).tokens == expected[3]
        assert engine.memory().pages_used == 0


def test_a_head_that_foresees_everything_has_every_draft_kept() -> None:
    """With another row's hidden state, or another row's token, it would have none of them kept."""
    with Engine(foreseeing_pair(), config()) as engine:
        for count, batch in ((1, 1), (4, 1), (7, 3), (4, 6)):
            for done in engine.generate(TEXTS[:batch], max_tokens=41, draft_tokens=count):
                assert done.stats.drafted == done.stats.accepted > 0
                assert done.stats.target_passes == -(-40 // (count + 1))


@pytest.mark.parametrize("family", ["llama", "qwen3_5"])
def test_a_trained_head_gives_more_tokens_per_pass(family: str) -> None:
    """Than n-grams and than an unrelated draft, on what it was trained on; the text is the target's own."""
    target = target_of(family)
    prompts = [prompt(9, seed) for seed in range(6)]
    said = [plain(target.model, tokens, 40) for tokens in prompts]
    head = trained_head(target, [[*asked, *told] for asked, told in zip(prompts, said, strict=True)], steps=150)
    pair = headed_pair(target, head)
    other = replace(pair, draft=target_of(family, seed=7))
    found = {}
    for name, each in (("mtp", pair), ("model", other), ("ngram", other)):
        with Engine(each, config()) as engine:
            done = engine.generate(prompts, max_tokens=40, draft_tokens=4, drafter=name)
        assert [answer.tokens for answer in done] == said
        found[name] = sum(a.stats.emitted - 1 for a in done) / sum(a.stats.target_passes for a in done)
    print(family, {name: round(value, 2) for name, value in found.items()})
    assert found["mtp"] > 2 > found["model"]


def test_drafters_take_turns_in_one_batch() -> None:
    """Who looks its drafts up leaves the others' as they are, and the head reads on meanwhile."""
    with Engine(foreseeing_pair(), config()) as engine:
        texts = [TEXTS[3] * 2, TEXTS[1], TEXTS[2]]
        looked_up, drafted, plainly = engine.generate(
            texts, [SamplingParams(max_tokens=40)] * 3, draft_tokens=4, drafter="auto"
        )
        assert looked_up.stats.accepted > 0
        assert drafted.stats.accepted == drafted.stats.drafted
        assert plainly.stats.accepted == plainly.stats.drafted


@pytest.mark.parametrize("family", ["llama", "qwen3_5"])
def test_a_heads_keys_and_values_are_those_of_one_pass_over_the_text(family: str) -> None:
    """Every page of a text that was read in chunks and written in cycles of every length holds, bit for bit, what the
    head keeps where it reads the whole text with the target's own hidden states.
    """
    pair = headed_pair(target := target_of(family), random_head(target))
    head = head_of(pair.draft)
    assert head is not None
    for lookahead, counts in ((0, (4,)), (1, (0,)), (1, (3,))):
        with Engine(pair, config(lookahead=lookahead)) as engine:
            for text, count in zip(TEXTS, counts * len(TEXTS), strict=False):
                done = engine.generate(text, LIKELIEST, draft_tokens=count)
                pages = checked_pages(engine, pair, [*text, *done.tokens])
                assert pages == (len(text) + NEW - 1) // PAGE


@pytest.mark.parametrize("family", ["llama", "deepseek_v3"])
def test_drafts_are_what_a_head_says_behind_the_whole_text(family: str) -> None:
    """Each draft of each cycle, kept or not: from the target's last hidden state, then from the head's own."""
    pair = headed_pair(target := target_of(family), random_head(target))
    head = head_of(pair.draft)
    assert head is not None
    with Engine(pair, config(lookahead=0)) as engine:
        runner = engine._core.runner
        noted = _Noted(runner._models.drafter)
        runner._models = replace(runner._models, drafter=noted)
        text = TEXTS[3] + engine.generate(TEXTS[3], LIKELIEST, draft_tokens=3).tokens
    assert len(noted.proposed) > 5
    for length, drafts in noted.proposed:
        cache = [KVCache()]
        hidden = head.trunk.hidden(mx.array([text[:length]]))
        out = head(mx.array([text[1 : length + 1]]), hidden, cache)[:, -1:]
        expected = [int(mx.argmax(head.trunk.logits(out)))]
        while len(expected) < len(drafts):
            out = head(mx.array([expected[-1:]]), out, cache)
            expected.append(int(mx.argmax(head.trunk.logits(out))))
        assert drafts == expected


class _Noted:
    """A drafter that notes behind how many tokens it proposed what, for one sequence."""

    def __init__(self, drafter: ModelDrafter | None) -> None:
        assert drafter is not None
        self._drafter = drafter
        self.proposed: list[tuple[int, list[int]]] = []

    def propose(self, context: DraftContext, count: int) -> Draft:
        draft = self._drafter.propose(context, count)
        tokens: Any = draft.tokens[0].tolist()
        self.proposed.append((int(context.positions[0]), tokens))
        return draft


def checked_pages(engine: Engine, pair: Pair, tokens: list[int]) -> int:
    """See that the known pages of a text hold what the head keeps of it, and count them; the last row of a page hangs
    on what followed in the text that was first to have it.
    """
    head, core = head_of(pair.draft), engine._core
    assert head is not None
    kept = _Kept()
    hidden = head.trunk.hidden(mx.array([tokens[:-1]]))
    head(mx.array([tokens[1:]]), hidden, [kept])
    cache = core.runner._cache
    cache._recurrent = False  # pages behind the last snapshot, too
    pages = cache.match(tokens[:-1]).pages
    cache._recurrent = bool(pair.target.layout.states)
    for number, page in enumerate(pages):
        rows = slice(number * PAGE, number * PAGE + PAGE - 1)
        for expected, pool in zip(kept.arrays, (core.pool.keys, core.pool.values), strict=True):
            assert mx.array_equal(pool[DRAFT][0][page][:, : PAGE - 1], expected[0][:, rows]).item(), number
    return len(pages)


class _Kept:
    """A layer's cache for one pass, which keeps what the layer stores."""

    offset = 0

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.arrays = keys, values
        return keys, values

    def make_mask(self, N: int, window_size: int | None = None, return_array: bool = False) -> mx.array:  # noqa: N803
        return mx.tril(mx.ones((N, N), mx.bool_))


@pytest.mark.parametrize("steps", [60, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", ["foreseeing", "qwen3_5"])
def test_every_request_of_a_mix_says_what_it_says_alone(family: str, steps: int) -> None:
    """Submitted, cancelled, forked and preempted at random, with every drafter; and no page holds another's rows."""
    chance = random.Random(family)
    pair = foreseeing_pair() if family == "foreseeing" else headed_pair(made := target_of(family), random_head(made))
    assert pair.draft is not None
    target = pair.target
    per_page = PAGE * sum(shape.bytes_per_position for shape in (*target.layers, *pair.draft.layers))
    states = target.layout.state_bytes
    memory = per_page * (2 + 96 // PAGE) + 40 * states
    oracle = Oracle(pair)
    for lookahead in (0, 1):
        tight = config(max_context=96, kv_memory=memory, max_sequences=6, prefill_chunk=16, lookahead=lookahead)
        with Engine(pair, tight) as engine:
            engine._core.runner.policy = AtRandom(chance)
            engine._core.pool.pages_most = min(engine._core.pool.pages_most, 96 // PAGE + 1)
            mix = Mix(engine._core, chance)
            for _ in range(8):
                mix.arrive()
            mix.run(steps)
            mix.check(oracle)
            texts = [[*PROMPTS[number], *sequence.emitted] for sequence, (number, _) in mix.ended]
            assert sum(checked_pages(engine, pair, text) for text in texts if len(text) > 1) > 8
            assert engine._core.runner.metrics().preemptions
    oracle.engine.close()
