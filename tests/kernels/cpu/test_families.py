"""Models whose attention reads pages and tail in place say what mlx-lm says, token for token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import llama

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.kernels.cpu import attention
from helix_mlx.kernels.cpu.choice import CpuKernels
from helix_mlx.kernels.cpu.library import CpuLibrary
from helix_mlx.models.loader import LoadedModel
from helix_mlx.models.pair import Pair
from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.page_pool import TARGET
from helix_mlx.paging.paged_cache import PagedKV, commit
from helix_mlx.request import SamplingParams
from tests.families import FAMILIES
from tests.support import grow_whole, plain, pool_addresses, prompt, random_model, random_pair

NEW = 24
# mlx-lm runs mistral as llama; with a window on some of its layers it also stands for ministral.
WINDOWED: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 24}


@pytest.fixture(scope="module")
def kernels(cpu_library: CpuLibrary) -> CpuKernels:
    return CpuKernels(cpu_library, "")


def texts(engine: Engine, prompts: list[list[int]], draft_tokens: int, **settings: Any) -> list[list[int]]:
    done = engine.generate(prompts, SamplingParams(max_tokens=NEW, **settings), draft_tokens=draft_tokens)
    return [completion.tokens for completion in done]


def check(loaded: LoadedModel, kernels: CpuKernels, in_place: bool) -> None:
    """Alone and in a ragged batch, without drafts and with 4, past the window where there is one."""
    pair = replace(random_pair(), target=loaded, kernels=kernels)
    prompts = [prompt(37, 5), prompt(9, 6), prompt(70, 7)]
    expected = [plain(loaded.model, tokens, NEW) for tokens in prompts]
    with Engine(pair, EngineConfig(max_context=256, prefill_chunk=24)) as engine:
        assert (engine._core.pool.direct[0] is not None) == in_place
        for count in (0, 4):
            assert texts(engine, prompts[:1], count) == expected[:1]
            assert texts(engine, prompts, count) == expected


@pytest.mark.parametrize("family", sorted(attention.FAMILIES))
def test_families_say_what_mlx_lm_says(kernels: CpuKernels, family: str) -> None:
    check(random_model(family), kernels, in_place=True)


def test_a_window_on_some_layers_of_llama(kernels: CpuKernels) -> None:
    check(random_model("llama", **WINDOWED), kernels, in_place=True)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - attention.FAMILIES))
def test_other_families_gather(kernels: CpuKernels, family: str) -> None:
    check(random_model(family), kernels, in_place=False)


def test_seeded_text_is_the_same_for_every_draft_length_and_batch(kernels: CpuKernels) -> None:
    pair = replace(random_pair(), kernels=kernels)
    prompts = [prompt(length, length) for length in (33, 1, 64, 8)]
    settings: dict[str, Any] = {"temperature": 0.8, "seed": 77, "top_p": 0.95}
    found = []
    for page_size, lookahead in ((8, 0), (16, 1), (64, 0)):
        config = EngineConfig(max_context=256, page_size=page_size, lookahead=lookahead, prefill_chunk=16)
        with Engine(pair, config) as engine:
            for count, tokens in zip((0, 1, 4, 7), prompts, strict=True):
                found.append(texts(engine, prompts, count, **settings))
                alone = texts(engine, [tokens], count, **settings)
                assert alone == [found[0][prompts.index(tokens)]]
    assert all(text == found[0] for text in found)


def logits(pair: Pair, page_size: int) -> list[mx.array]:
    """The logits that a text ends with, read at once, in pieces, and row by row."""
    found = []
    tokens = prompt(75, 3)
    with Engine(pair, EngineConfig(max_context=256, page_size=page_size)) as engine:
        pool = engine._core.pool
        for rows in (75, 25, 5, 3, 1):
            kv = PagedKV.empty(pool, TARGET, BlockTable(pool.allocator), 75 + page_size)
            for at in range(0, 75, rows):
                part = mx.array([tokens[at : at + rows]])
                out = pair.target.model(part, cache=kv.caches(mx.array([at], mx.int32), at + rows, exact=True))
                mx.eval(out, kv.tail.keys, kv.tail.values)
                commit([kv], [[at + rows - 1]])
            kv.tables[0].truncate(0)
            found.append(out[0, -1])
    return found


def test_logits_are_the_same_bits_however_a_text_is_read(kernels: CpuKernels) -> None:
    pair = replace(random_pair(), kernels=kernels)
    found = [row for page_size in (1, 4, 16, 64) for row in logits(pair, page_size)]
    assert all(mx.array_equal(row, found[0]).item() for row in found)


@pytest.mark.parametrize("lookahead", [0, 1])
def test_commits_never_move_the_pool(kernels: CpuKernels, lookahead: int) -> None:
    """Nothing holds on to the pool once a pass is over, so every page is written in place."""
    pair = replace(random_pair(num_hidden_layers=1, intermediate_size=16), kernels=kernels)
    with Engine(pair, EngineConfig(max_context=512, page_size=1, lookahead=lookahead)) as engine:
        grow_whole(engine._core)
        addresses = pool_addresses(engine._core)
        engine.generate([prompt(9), prompt(30)], max_tokens=300, draft_tokens=3)
        assert pool_addresses(engine._core) == addresses


def test_an_engine_without_the_kernels_is_served_as_before(kernels: CpuKernels) -> None:
    """Who gathers, or brings a cache of mlx-lm's, notices nothing, and mlx-lm's module stays as it is."""
    untouched = llama.scaled_dot_product_attention
    pair = random_pair()
    before = plain(pair.target.model, prompt(20), NEW)
    assert attention.install(pair.target.model)
    changed = llama.scaled_dot_product_attention
    assert changed is untouched
    assert attention.install(pair.target.model)
    assert llama.scaled_dot_product_attention is changed
    assert plain(pair.target.model, prompt(20), NEW) == before
    with Engine(pair, EngineConfig(max_context=256)) as engine:
        assert engine._core.pool.direct == [None, None]
        assert texts(engine, [prompt(20)], 4) == [before]


def test_a_family_that_has_changed_gathers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another mlx-lm may not call its attention by that name, or may look at what the cache returns."""
    model: Any = random_model("qwen2").model
    assert attention.install(model)
    layer_class = type(model.layers[0].self_attn)
    original = layer_class.__call__

    def looking(self: Any, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        return original(self, x, None, cache)

    monkeypatch.setattr(layer_class, "__call__", looking)
    assert not attention.install(model)
    monkeypatch.setattr(layer_class, "__call__", lambda self, x, mask=None, cache=None: x)
    assert not attention.install(model)
