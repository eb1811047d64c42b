from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model

from helix_mlx.convert.quantization import quantize_checkpoint
from helix_mlx.errors import HelixError
from tests.convert.checkpoints import write_checkpoint


def test_a_checkpoint_in_four_bits_is_what_mlx_lm_reads(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    quantize_checkpoint(source, tmp_path / "made" / "small", bits=4, group_size=32)
    model, config = load_model(tmp_path / "made" / "small")
    assert config["quantization"] == {"group_size": 32, "bits": 4, "mode": "affine"}
    assert model(mx.array([[1, 2]])).shape[:2] == (1, 2)
    assert (tmp_path / "made" / "small" / "tokenizer.json").exists()
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["small"]


def test_what_cannot_be_quantised_leaves_nothing_behind(tmp_path: Path) -> None:
    source, out = write_checkpoint(tmp_path / "source"), tmp_path / "out"
    (tmp_path / "empty").mkdir()
    with pytest.raises(HelixError, match=r"no config\.json"):
        quantize_checkpoint(tmp_path / "empty", out)
    with pytest.raises(HelixError, match="no quantisation mode"):
        quantize_checkpoint(source, out, mode="half")
    quantize_checkpoint(source, out, group_size=32)
    with pytest.raises(HelixError, match="already exists"):
        quantize_checkpoint(source, out)
    with pytest.raises(HelixError, match="quantised already"):
        quantize_checkpoint(out, tmp_path / "again", group_size=32)
    broken = write_checkpoint(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"none")
    with pytest.raises(HelixError, match="cannot load the weights"):
        quantize_checkpoint(broken, tmp_path / "again")
    assert json.loads((out / "config.json").read_text())["quantization"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["broken", "empty", "out", "source"]
