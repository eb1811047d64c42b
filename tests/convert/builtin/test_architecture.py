from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model

from helix_mlx.convert.builtin.architecture import (
    BITS,
    GROUP_SIZE,
    average_checkpoints,
    copy_ends,
    fake_quantised,
    load_float_checkpoint,
    named_arrays,
    save_float_checkpoint,
)
from tests.convert.builtin.conftest import DRAFT, TARGET, TOKENIZER


def test_a_draft_begins_as_the_ends_of_its_target_and_shares_nothing_with_it() -> None:
    target, draft = TARGET.build(), DRAFT.build()
    copy_ends(target, draft)
    last = target.layers[-1].self_attn.q_proj.weight
    assert mx.array_equal(draft.layers[0].self_attn.q_proj.weight, last)
    assert mx.array_equal(draft.model.embed_tokens.weight, target.model.embed_tokens.weight)
    draft.layers[0].self_attn.q_proj.weight += 1.0
    assert mx.array_equal(target.layers[-1].self_attn.q_proj.weight, last)
    assert not mx.array_equal(draft.layers[0].self_attn.q_proj.weight, last)


def test_training_sees_the_weights_that_four_bits_leave_and_moves_the_float_ones() -> None:
    weight, norm = mx.random.normal((8, GROUP_SIZE)), mx.random.normal((GROUP_SIZE,))
    found = fake_quantised({"weight": weight, "norm": norm})
    assert mx.array_equal(found["norm"], norm)
    packed = mx.quantize(weight.astype(mx.float16), group_size=GROUP_SIZE, bits=BITS)
    expected = mx.dequantize(*packed, group_size=GROUP_SIZE, bits=BITS).astype(mx.float32)
    assert np.allclose(np.array(found["weight"]), np.array(expected), atol=1e-6)
    slope = mx.grad(lambda x: (3.0 * fake_quantised({"weight": x})["weight"]).sum())(weight)
    assert mx.array_equal(slope, mx.full(weight.shape, 3.0))


def test_a_checkpoint_is_what_was_saved_and_what_mlx_lm_reads(tmp_path: Path) -> None:
    model, tokens = TARGET.build(), mx.array([[3, 4, 5]])
    for _ in range(2):  # the second replaces the first
        save_float_checkpoint(model, TARGET, TOKENIZER, tmp_path / "target")
    assert [file.name for file in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target" / "tokenizer.json").exists()
    loaded, _ = load_model(tmp_path / "target")
    for other in (load_float_checkpoint(TARGET, tmp_path / "target"), loaded):
        assert np.allclose(np.array(other(tokens)), np.array(model(tokens)), atol=1e-5)
    config = json.loads((tmp_path / "target" / "config.json").read_text())
    generation = json.loads((tmp_path / "target" / "generation_config.json").read_text())
    assert config["eos_token_id"] == generation["eos_token_id"]
    assert len(config["eos_token_id"]) == 2


def test_the_mean_of_two_checkpoints(tmp_path: Path) -> None:
    models = [TARGET.build(), TARGET.build()]
    for model, name in zip(models, "ab", strict=True):
        save_float_checkpoint(model, TARGET, TOKENIZER, tmp_path / name)
    average_checkpoints(tmp_path / "a", tmp_path / "b", tmp_path / "mean")
    found = dict(named_arrays(load_float_checkpoint(TARGET, tmp_path / "mean").parameters()))
    first, second = (dict(named_arrays(model.parameters())) for model in models)
    assert all(np.allclose(np.array(found[name]), np.array((first[name] + second[name]) / 2)) for name in first)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b", "mean"]
