"""A choice of drafts that fails costs speed and no answer."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.engine.scheduling.draft_policy import AdaptiveDraftPolicy
from tests.support import prompt, random_pair


def fails(*_: Any, **__: Any) -> Any:
    raise IndexError("tuple index out of range")


@pytest.mark.parametrize("method", ["choose", "wants_drafts", "note", "note_read"])
def test_answers_go_on_without_drafts(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    told: list[str] = []
    with Engine(random_pair(), EngineConfig(max_context=128, calibrate=False), told.append) as engine:
        prompts = [prompt(20 + n, n) for n in range(3)]
        expected = [engine.generate(each, max_tokens=30, draft_tokens=0).tokens for each in prompts]
        monkeypatch.setattr(AdaptiveDraftPolicy, method, fails)
        handles = [engine.submit(each, max_tokens=30) for each in prompts]
        fixed = engine.submit(prompts[0], max_tokens=30, draft_tokens=3)
        assert [handle.result().tokens for handle in handles] == expected
        assert fixed.result().tokens == expected[0]
        assert fixed.result().stats.drafted > 0
        assert engine.generate(prompts[1], max_tokens=30).tokens == expected[1]
    assert len(told) <= 1
    if method in ("choose", "note"):
        assert "IndexError: tuple index out of range" in told[0]
        assert "report" in told[0]


def test_nobody_to_tell_is_a_warning() -> None:
    with Engine(random_pair(), EngineConfig(max_context=128)) as engine, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine._core.draft_policy.choose = fails  # type: ignore[method-assign]
        assert engine.generate(prompt(9), max_tokens=12).stats.drafted == 0
    assert ["Choosing drafts failed" in str(each.message) for each in caught] == [True]
