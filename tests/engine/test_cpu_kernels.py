"""The CPU kernels in an engine: chosen by the configuration, told in the settings, and the same text either way."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlx.nn.layers.base import Module

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine, load
from helix_mlx.errors import SettingsError
from helix_mlx.kernels.cpu.choice import CpuKernels
from helix_mlx.kernels.cpu.library import CpuLibrary
from helix_mlx.kernels.quantized_matmul import FastQuantizedEmbedding, FastQuantizedLinear
from helix_mlx.models.pairs import source_path
from tests.support import prompt, quantized_pair

needs_pair = pytest.mark.skipif(source_path("builtin:tiny/target") is None, reason="the built-in pair is not here")


def kinds(engine: Engine) -> set[type]:
    assert engine.pair.draft is not None
    models = (engine.pair.target.model, engine.pair.draft.model)
    return {type(layer) for model in models if isinstance(model, Module) for layer in model.modules()}


@needs_pair
def test_the_configuration_decides(cpu_library: CpuLibrary) -> None:
    with load(config=EngineConfig(cpu_kernels="on", cpu_threads=2)) as engine:
        assert {FastQuantizedLinear, FastQuantizedEmbedding} <= kinds(engine)
        done = engine.generate("The sun", max_tokens=8)
        assert done.settings["cpu_kernels"] == cpu_library.form
        assert done.settings["cpu_threads"] == 2
    with load(config=EngineConfig(cpu_kernels="off")) as engine:
        assert FastQuantizedLinear not in kinds(engine)
        plain = engine.generate("The sun", max_tokens=8)
        assert plain.settings["cpu_kernels"] == "off"
        assert plain.settings["cpu_threads"] is None
    assert plain.tokens == done.tokens


@needs_pair
def test_what_cannot_be_had_is_told_or_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("helix_mlx.kernels.cpu.library.nanobind_version", lambda: "0")
    monkeypatch.setattr("helix_mlx.kernels.cpu.build.nanobind_version", lambda: "0")
    told: list[str] = []
    with load(config=EngineConfig(calibrate=False), notice=told.append) as engine:
        assert engine.generate("The sun", max_tokens=4).settings["cpu_kernels"] == "off"
        assert engine.pair.kernels.reason in told[0]
    assert len(told) == 1
    with pytest.raises(SettingsError, match="cpu-kernels is on, but there is no"):
        load(config=EngineConfig(cpu_kernels="on"))


@pytest.mark.parametrize("value", [{"cpu_kernels": "maybe"}, {"cpu_threads": 0}, {"cpu_threads": 1000}])
def test_values_out_of_range(value: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="but must be"):
        EngineConfig(**value)  # type: ignore[arg-type]


def test_threads_make_no_difference_to_a_text(cpu_library: CpuLibrary) -> None:
    pair, texts = quantized_pair(CpuKernels(cpu_library, "")), []
    for threads in (1, 2, 5, None):
        cpu_library.set_threads(threads)
        with Engine(pair, EngineConfig(max_context=256)) as engine:
            texts.append(engine.generate(prompt(40), max_tokens=30, draft_tokens=4).tokens)
    assert all(text == texts[0] for text in texts)
