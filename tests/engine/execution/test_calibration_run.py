"""Measuring what a cycle costs: it leaves nothing behind but the cost table."""

from __future__ import annotations

import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.errors import ClosedError
from helix_mlx.models.pair import Pair
from tests.support import pool_addresses, prompt, random_pair


@pytest.fixture(scope="module")
def pair() -> Pair:
    return random_pair()


def test_nothing_is_left_of_it(pair: Pair, tmp_path: Path) -> None:
    with Engine(pair, EngineConfig(max_context=256)) as engine:
        before, addresses = engine.metrics(), pool_addresses(engine._core)
        told: list[str] = []
        cost_table = engine.calibrate(tmp_path, told.append)
        assert len(told) == 1
        after = asdict(engine.metrics())
        assert {**after, "busy_s": 0.0} == {**asdict(before), "busy_s": 0.0}
        assert pool_addresses(engine._core) == addresses
        assert cost_table.draft_s > 0
        assert list(cost_table.target_s) == sorted(cost_table.target_s)
        expected = engine.generate(prompt(9), max_tokens=40, draft_tokens=0).tokens
        assert engine.generate(prompt(9), max_tokens=40).tokens == expected
        told.clear()
        with Engine(pair, EngineConfig(max_context=256)) as other:
            assert other.calibrate(tmp_path, told.append) == cost_table
        assert told == []


def test_without_a_draft_there_is_no_step_to_measure(pair: Pair, tmp_path: Path) -> None:
    with Engine(replace(pair, draft=None), EngineConfig(max_context=64)) as engine:
        assert engine.calibrate(tmp_path).draft_s == 0.0


def test_requests_wait_for_it_and_it_waits_for_them(pair: Pair, tmp_path: Path) -> None:
    with Engine(pair, EngineConfig(max_context=256)) as engine:
        handles = [engine.submit(prompt(9, seed), max_tokens=60) for seed in range(2)]
        thread = threading.Thread(target=engine.calibrate, args=(tmp_path,))
        thread.start()
        handles += [engine.submit(prompt(9, seed), max_tokens=60) for seed in range(2)]
        tokens = [handle.result().tokens for handle in handles]
        thread.join()
        assert tokens[:2] == tokens[2:]
        assert engine.metrics().requests == 4


def test_a_closed_engine_measures_nothing(pair: Pair, tmp_path: Path) -> None:
    engine = Engine(pair, EngineConfig(max_context=64))
    engine.close()
    with pytest.raises(ClosedError):
        engine.calibrate(tmp_path)


def test_an_error_on_the_way_is_the_callers(pair: Pair) -> None:
    def fails() -> None:
        raise ValueError("not now")

    with Engine(pair, EngineConfig(max_context=64)) as engine:
        with pytest.raises(ValueError, match="not now"):
            engine._core.thread.call(fails)
        assert engine.generate(prompt(9), max_tokens=4).tokens
