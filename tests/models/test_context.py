"""The positions that a configuration comes to."""

from __future__ import annotations

from typing import Any

import pytest

from helix_mlx.models.context import context_limit


def rope(kind: str, factor: float = 4.0, original: int | None = None) -> dict[str, Any]:
    told = {} if original is None else {"original_max_position_embeddings": original}
    return {"rope_type": kind, "factor": factor, **told}


@pytest.mark.parametrize(
    ("stated", "scaling", "limit"),
    [
        (64, None, 64),
        (64, {"rope_type": "default"}, 64),
        (64, {"type": "mrope", "mrope_section": [1, 2, 3]}, 64),
        (64, rope("linear"), 256),
        (64, {"type": "linear", "factor": 4.0}, 256),
        (64, rope("dynamic", 2.0), 128),
        (64, rope("yarn"), 256),
        (64, rope("yarn", original=64), 256),
        (256, rope("yarn", original=64), 256),
        (80, rope("yarn", original=64), 256),  # Qwen 3: rounded up for an answer
        (163840, rope("deepseek_yarn", 40, 4096), 163840),
        (256, rope("llama3", original=64), 256),
        (131072, rope("llama3", 32.0, 8192), 131072),  # Llama 3.2: less than its factor makes
        (64, rope("llama3", original=64), 256),
        (131072, {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}, 131072),
        (131072, rope("su", 32.0), 131072),
    ],
)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_scaled_rope_counts(stated: int, scaling: Any, limit: int, key: str, nested: bool) -> None:
    config = {"max_position_embeddings": stated, key: scaling}
    assert context_limit({"text_config": config} if nested else config) == limit


def test_each_kind_of_layer_may_have_its_own_rope() -> None:
    ropes = {"full_attention": rope("yarn", original=64), "sliding_attention": {"rope_type": "default"}}
    assert context_limit({"max_position_embeddings": 64, "rope_parameters": ropes}) == 256


def test_families_that_mean_something_else() -> None:
    gemma = {"model_type": "gemma3_text", "max_position_embeddings": 131072, "rope_scaling": rope("linear", 8.0)}
    assert context_limit({"model_type": "gemma3", "text_config": gemma}) == 131072
    assert context_limit({"max_position_embeddings": 8192, "model_max_length": 131072}) == 131072  # Cohere
    phi = {"max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "rope_scaling": {"type": "su"}}
    assert context_limit(phi) == 131072


def test_learned_positions_leave_room_for_drafts() -> None:
    assert context_limit({"n_positions": 1024}) == 1008
    assert context_limit({"n_positions": 8}) is None


@pytest.mark.parametrize("odd", ["512", -5, 0, 1.5, True, None, [], {}, 10**30])
def test_what_is_of_a_wrong_type_says_nothing(odd: Any) -> None:
    assert context_limit({"max_position_embeddings": odd, "text_config": odd, "rope_scaling": odd}) is None
    assert context_limit({"max_position_embeddings": 64, "text_config": odd, "rope_scaling": odd}) == 64
    assert context_limit({"max_position_embeddings": 64, "rope_scaling": rope("yarn", original=odd)}) == 256
    scaling = {"rope_type": odd, "factor": odd, "original_max_position_embeddings": odd}
    assert context_limit({"max_position_embeddings": 64, "rope_parameters": scaling}) == 64


def test_absurd_factors_say_nothing() -> None:
    for factor in (float("nan"), float("inf"), 0, -1, 10**12):
        assert context_limit({"max_position_embeddings": 64, "rope_scaling": rope("linear", factor)}) == 64
