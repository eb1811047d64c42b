"""Recurrent layers record their rows for the model that asked for it, and for nobody else."""

from __future__ import annotations

import importlib
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import gated_delta, qwen3_5
from mlx_lm.models.cache import make_prompt_cache

from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.page_pool import TARGET, PagePool
from helix_mlx.paging.paged_cache import PagedKV
from helix_mlx.recurrent.install import install
from helix_mlx.recurrent.registry import LAYERS
from tests.census.families import FAMILIES
from tests.support import built, prompt

TEXT = mx.array([prompt(9, 2)])


def model_of(family: str) -> Any:
    return built({**FAMILIES[family].config, "model_type": family}, 0)


def test_mlx_lms_modules_and_classes_stay_as_they_are() -> None:
    before = dict(vars(qwen3_5.GatedDeltaNet))
    loaded = model_of("qwen3_5")
    assert qwen3_5.gated_delta_update is gated_delta.gated_delta_update
    assert qwen3_5.mx is mx
    assert dict(vars(qwen3_5.GatedDeltaNet)) == before
    kinds = {type(each) for each in loaded.model.modules() if isinstance(each, qwen3_5.GatedDeltaNet)}
    assert len(kinds) == 1
    assert qwen3_5.GatedDeltaNet not in kinds


def test_another_cache_is_served_as_before() -> None:
    """Twice installed is installed once."""
    loaded = model_of("qwen3_5")
    install(loaded.model)
    model: Any = loaded.model
    for each in model.modules():
        if isinstance(each, qwen3_5.GatedDeltaNet):
            assert type(each).__base__ is qwen3_5.GatedDeltaNet
    ours = model(TEXT, cache=make_prompt_cache(model))
    for each in model.modules():
        if isinstance(each, qwen3_5.GatedDeltaNet):
            each.__class__ = qwen3_5.GatedDeltaNet
    assert mx.array_equal(model(TEXT, cache=make_prompt_cache(model)), ours).item()


def test_every_layer_of_the_registry_is_there() -> None:
    for family, name in LAYERS:
        try:
            module = importlib.import_module(f"mlx_lm.models.{family}")
        except ModuleNotFoundError:
            continue  # an older mlx-lm
        assert hasattr(module, name), (family, name)


@pytest.mark.parametrize("family", ["qwen3_5", "lfm2", "nemotron_h", "jamba", "bailing_hybrid", "longcat_flash_ngram"])
def test_a_state_taken_back_is_that_of_the_steps_alone(family: str) -> None:
    """Bit for bit, whatever the pass had read besides, and by several passes as by one."""
    loaded = model_of(family)
    model: Any = loaded.model
    pool = PagePool([loaded.layers], 16, 4, layouts=[loaded.layout])

    def fresh() -> PagedKV:
        return PagedKV.empty(pool, TARGET, BlockTable(pool.allocator), 32)

    def read(kv: PagedKV, first: int, last: int, *, record: bool) -> None:
        at = mx.array([first], mx.int32)
        mx.eval(model(TEXT[:, first:last], cache=kv.caches(at, last, record=record)), kv.arrays)

    def states(kv: PagedKV) -> list[mx.array]:
        assert kv.states is not None
        return kv.states.arrays

    steps = fresh()
    seen = []
    for position in range(9):
        read(steps, position, position + 1, record=False)
        seen.append(states(steps))
    for kept in range(1, 6):
        for passes in ([(3, 8)], [(3, 5), (5, 6), (6, 8)]):
            kv = fresh()
            read(kv, 0, 3, record=False)
            for first, last in passes:
                read(kv, first, last, record=True)
            kv.advance(mx.array([kept], mx.int32))
            for ours, alone in zip(states(kv), seen[2 + kept], strict=True):
                assert mx.array_equal(ours, alone).item()
