"""What comes of a GGUF file is the model that is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize

from helix_mlx.models.gguf import folder as gguf_folders
from helix_mlx.models.gguf.folder import convert_gguf, gguf_folder
from helix_mlx.models.gguf.quantization import quantized_matrix
from helix_mlx.models.loader import read_model
from tests.models.gguf.files import VOCAB, TinyGguf

EXACT = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K"]
AGAIN = ["Q6_K", "Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS"]
TEXT = [7, 3, 150, 33, 200, 9, 61, 12, 88, 140]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def logits_of(folder: Path) -> Any:
    model, _ = read_model(folder)
    model.set_dtype(mx.float32)
    return np.array(model(mx.array([TEXT]))[0])


def check_logits(tiny: TinyGguf, path: Path) -> None:
    convert_gguf([tiny.write(path)], path.with_suffix(""))
    expected = tiny.logits(TEXT)
    error = np.abs(logits_of(path.with_suffix("")) - expected).max()
    assert error < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_logits_of_every_type_are_those_of_the_weights_in_the_file(
    tmp_path: Path, architecture: str, kind: str
) -> None:
    check_logits(TinyGguf(architecture, kind, tied=architecture == "gemma3"), tmp_path / "a.gguf")


@pytest.mark.parametrize(("on_cpu", "bits"), [(True, 8), (False, 5)])
@pytest.mark.parametrize("kind", ["Q5_0", "Q5_1", "Q5_K"])
def test_codes_of_five_bits_are_packed_as_the_device_likes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, on_cpu: bool, bits: int
) -> None:
    monkeypatch.setattr(gguf_folders, "on_cpu", lambda: on_cpu)
    check_logits(TinyGguf("llama", kind), tmp_path / "a.gguf")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["quantization"]["lm_head"]["bits"] == bits


@pytest.mark.parametrize(("architecture", "tied"), [("qwen2", False), ("qwen3", True), ("llama", True)])
def test_biases_norms_of_heads_and_tied_heads(tmp_path: Path, architecture: str, tied: bool) -> None:
    check_logits(TinyGguf(architecture, "Q8_0", tied=tied), tmp_path / "a.gguf")


@pytest.mark.parametrize("kind", AGAIN)
def test_other_types_are_quantised_again_and_that_is_told(tmp_path: Path, kind: str) -> None:
    told: list[str] = []
    path = TinyGguf("llama", kind).write(tmp_path / "a.gguf")
    convert_gguf([path], tmp_path / "a", told.append)
    assert told == [
        f"a.gguf: weights in {kind} have no counterpart in MLX and were quantised again; answers may differ slightly "
        "from llama.cpp's."
    ]
    for tensor in GGUFReader(path).tensors:
        if tensor.tensor_type.name == kind:
            made = quantized_matrix(tensor)
            found = np.array(mx.dequantize(made.weight, made.scales, made.biases, 32, made.bits).astype(mx.float32))
            meant = dequantize(tensor.data, tensor.tensor_type)
            groups = meant.reshape(-1, 32)
            step = np.ptp(groups, axis=1) / (2**made.bits - 1)
            assert (np.abs(found.reshape(-1, 32) - groups).max(axis=1) <= 1.02 * step + 2e-4).all()
    assert read_model(tmp_path / "a")[0](mx.array([TEXT])).shape == (1, len(TEXT), VOCAB)


def test_a_scale_that_is_no_half_keeps_its_precision(tmp_path: Path) -> None:
    path = TinyGguf("llama", "Q4_K").write(tmp_path / "a.gguf")
    for tensor in GGUFReader(path).tensors:
        if tensor.tensor_type.name == "Q4_K":
            made = quantized_matrix(tensor)
            found = mx.dequantize(made.weight, made.scales, made.biases, 32, made.bits)
            assert np.array_equal(np.array(found), dequantize(tensor.data, tensor.tensor_type))
            assert made.scales.dtype == mx.float32
    made = quantized_matrix(GGUFReader(TinyGguf("llama", "Q4_1").write(tmp_path / "b.gguf")).tensors[-1])
    assert made.scales.dtype == mx.float16


def test_the_first_use_converts_and_a_changed_file_does_so_again(tmp_path: Path, home: Path) -> None:
    path = TinyGguf().write(tmp_path / "a.gguf")
    first = gguf_folder(path)
    assert first.is_relative_to(home)
    made = (first / "model.safetensors").stat().st_ino
    assert gguf_folder(path) == first
    assert (first / "model.safetensors").stat().st_ino == made
    assert gguf_folder(TinyGguf("qwen2").write(path)) != first
    assert {each.name for each in first.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert [each.name for each in first.parent.iterdir() if each.name.startswith(".")] == []


def test_a_large_model_is_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = TinyGguf("llama", "Q8_0")
    monkeypatch.setattr(gguf_folders, "SHARD_BYTES", 400_000)
    check_logits(tiny, tmp_path / "a.gguf")
    assert len(list((tmp_path / "a").glob("model-part*.safetensors"))) > 2


def test_llama_3_s_long_rope_comes_from_its_factors(tmp_path: Path) -> None:
    def factors(largest: float) -> Any:
        lengths = 2 * np.pi * 500_000 ** (np.arange(32) / 32)
        smooth = np.clip((8192 / lengths - 1) / 3, 0, 1)
        return (1 / ((1 - smooth) / largest + smooth)).astype(np.float32)

    def put(writer: Any) -> None:
        writer.add_tensor("rope_freqs.weight", factors(32))
        writer.kv_data[0]["llama.rope.freq_base"].value = 500_000.0

    convert_gguf([TinyGguf().write(tmp_path / "a.gguf", put)], tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["rope_scaling"] == {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    assert config["rope_theta"] == 500_000.0
