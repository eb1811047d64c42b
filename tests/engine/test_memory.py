"""How much KV memory an engine takes: one context at first, then what is wanted, and never more than it may."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import Mock

import mlx.core as mx
import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine import memory
from helix_mlx.engine.engine import Engine
from helix_mlx.errors import MemoryBudgetError, PromptError
from helix_mlx.models.pair import Pair
from helix_mlx.paging.page_pool import PagePool
from helix_mlx.request import Request, SamplingParams
from tests.support import pool_addresses, prompt, random_pair


@pytest.fixture(scope="module")
def pair() -> Pair:
    return random_pair()


def per_page(pair: Pair, page_size: int = 16) -> int:
    assert pair.draft is not None
    return PagePool.bytes_per_page([pair.target.layers, pair.draft.layers], page_size)


def pages(engine: Engine) -> tuple[int, int]:
    """Now, and at most."""
    report, size = engine.memory(), per_page(engine.pair, engine.config.page_size)
    assert report.bytes == (report.pages_total + 1) * size == engine._core.pool.nbytes
    return report.pages_total, report.budget // size - 1


def test_it_begins_with_one_context(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine(pair, EngineConfig(max_context=64)) as engine:
        assert pages(engine) == (4, 16)
        assert engine.metrics().kv_budget == engine.memory().budget
    with Engine(pair, EngineConfig(max_context=64, kv_memory=3000 * per_page(pair))) as engine:
        assert pages(engine) == (4, 2999)
    monkeypatch.setattr(memory, "FIRST_CONTEXT", 1024)
    with Engine(pair, EngineConfig()) as engine:
        assert pages(engine) == (64, 1024)
        assert (engine.memory().context, engine.memory().context_made_for) == (4096, 4096)


@pytest.mark.parametrize("lookahead", [None, 0, 1])
def test_it_grows_while_answers_run_and_they_notice_nothing(pair: Pair, lookahead: int | None) -> None:
    """Arrivals, forks and one that grows past the first context, beside each other; nobody is preempted."""
    params = [SamplingParams(max_tokens=50), SamplingParams(max_tokens=50, temperature=0.9, seed=3)]
    config = EngineConfig(max_context=64, page_size=4, lookahead=lookahead, kv_memory=400 * per_page(pair, 4))
    with Engine(pair, replace(config, max_sequences=1)) as alone:
        expected = [alone.generate(prompt(9, seed), params[seed % 2]).tokens for seed in range(6)]
        assert alone.memory().pages_total == 16
    with Engine(pair, config) as engine:
        before = engine.memory().pages_total
        handles = []
        for seed in range(6):
            handles.append(engine.submit(Request(prompt(9, seed), params[seed % 2], n=1 if seed else 3)))
            next(iter(handles[-1]))
        assert [one.tokens for one in handles[0].results()] == 3 * expected[:1]
        assert [handle.result().tokens for handle in handles[1:]] == expected[1:]
        assert engine.metrics().preemptions == 0
        assert before < engine.memory().pages_total <= 6 * 16 + 2 * 16
        assert engine.memory().pages_used == 0
        addresses = pool_addresses(engine._core)
        assert engine.generate(prompt(9, 0), params[0]).tokens == expected[0]
        assert pool_addresses(engine._core) == addresses


def test_a_long_prompt_has_its_memory_at_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FIRST_CONTEXT", 64)
    with Engine(pair, EngineConfig(max_context=1024, kv_memory=70 * per_page(pair))) as engine:
        assert pages(engine) == (4, 69)
        grow = Mock(wraps=engine._core.pool.grow)
        monkeypatch.setattr(engine._core.pool, "grow", grow)
        engine.generate(prompt(800), max_tokens=2)
        assert grow.call_count == 1
        assert 50 <= engine.memory().pages_total <= 69
        engine.generate(prompt(1000), max_tokens=24)
        assert engine.memory().pages_total <= 69


def test_what_nobody_holds_is_used_before_it_grows(pair: Pair) -> None:
    """One conversation after the other finds its memory in the pages of those before it."""
    with Engine(pair, EngineConfig(max_context=64)) as engine:
        for seed in range(5):
            engine.generate(prompt(30, seed), max_tokens=30)
        assert pages(engine) == (4, 16)


def test_beyond_the_budget_it_waits_as_ever(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=64, kv_memory=8 * per_page(pair))) as engine:
        done = engine.generate([prompt(8, seed) for seed in range(4)], max_tokens=56)
        assert [one.finish_reason for one in done] == ["length"] * 4
        assert engine.metrics().preemptions > 0
        assert pages(engine) == (7, 7)


def test_a_context_that_memory_makes_too_short_is_refused_with_the_numbers(pair: Pair) -> None:
    size = per_page(pair)
    needed = (2048 // 16 + 1) * size
    told = f"hold 2032 positions, fewer than the 2048 .* raise --kv-memory to at least {needed}, .* --max-context 2032"
    with pytest.raises(MemoryBudgetError, match=told):
        Engine(pair, EngineConfig(kv_memory=needed - size))
    with Engine(pair, EngineConfig(kv_memory=needed)) as engine:
        assert engine.config.max_context == engine.memory().context == 2048
        with pytest.raises(
            PromptError, match="2100 tokens but the context holds 2048; shorten it, or raise --kv-memory"
        ):
            engine.generate(prompt(2100))
    with Engine(pair, EngineConfig(kv_memory=needed - size, max_context=2032)) as engine:
        assert engine.config.max_context == 2032
    made_short = replace(pair, target=replace(pair.target, max_context=512))
    with Engine(made_short, EngineConfig(kv_memory=33 * per_page(pair))) as engine:
        assert engine.memory().context == 512
    with pytest.raises(MemoryBudgetError, match="fewer than the 512"):
        Engine(made_short, EngineConfig(kv_memory=32 * per_page(pair)))


@pytest.mark.parametrize("kv_memory", [2**62, 2**63, 10**15, 10**30])
def test_more_memory_than_there_is_is_refused_with_the_numbers(pair: Pair, kv_memory: int) -> None:
    with pytest.raises(MemoryBudgetError, match=f"{kv_memory} bytes, but this machine has {memory.physical_memory()}"):
        Engine(pair, EngineConfig(kv_memory=kv_memory))


def test_memory_that_cannot_be_spared_is_told(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody says how much, and the weights leave nothing."""
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 1000})
    with pytest.raises(MemoryBudgetError, match=r"0 bytes of KV memory are too few .* raise --kv-memory"):
        Engine(pair, EngineConfig())
