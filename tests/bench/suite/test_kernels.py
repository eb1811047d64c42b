"""The CPU kernels' benchmark on matrices that are small: its arms compute the same, and its figures are whole."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from helix_mlx.bench.suite import kernels
from helix_mlx.kernels.cpu.library import CpuLibrary


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("INPUTS", 128), ("OUTPUTS", 192), ("COPIES", 3)):
        monkeypatch.setattr(kernels, name, value)
    monkeypatch.setattr(kernels, "read_bandwidth", lambda _: 1e9)
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 1, "vocab_size": 128}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    monkeypatch.setattr(kernels, "TINYLLAMA", {**kernels.TINYLLAMA, **sizes, **heads})


def test_pieces_of_work_take_turns_and_the_first_round_does_not_count() -> None:
    ran: list[tuple[str, int]] = []

    def work(name: str, repeat: int) -> mx.array:
        ran.append((name, repeat))
        return mx.zeros(1)

    taken = kernels.medians({name: lambda repeat, name=name: work(name, repeat) for name in "ab"}, repeats=2)  # type: ignore[misc]
    assert ran == [(name, repeat) for repeat in range(3) for name in "ab"]
    assert taken.keys() == {"a", "b"}


def test_an_aim_is_a_least_or_a_most() -> None:
    assert kernels.aim("speed", 20.0, 20.0).met
    assert not kernels.aim("speed", 19.0, 20.0).met
    assert kernels.aim("time", 1.5, 1.6, most=True).met
    assert not kernels.aim("time", 1.7, 1.6, most=True).met


def test_the_products_of_all_arms_are_equal(cpu_library: CpuLibrary) -> None:
    x, weights = mx.random.normal((5, 128)), kernels.random_weights(2)
    arms = [kernels.product_of(x, weights, library) for library in (None, cpu_library)]
    for repeat in range(2):
        theirs, ours = (np.array(arm(repeat)) for arm in arms)
        assert np.allclose(theirs, ours, atol=1e-4)


def test_every_number_of_rows_has_a_figure_of_each_arm(
    cpu_library: CpuLibrary, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, asked = kernels.products(cpu_library, repeats=1)
    assert figures.keys() == {f"{arm} {rows}" for arm in ("mlx", "cache", "memory") for rows in kernels.ROWS}
    assert all(seconds > 0 for seconds in figures.values())
    assert len(asked) == 7
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:10]] == [str(rows) for rows in kernels.ROWS]


def test_the_whole_model_is_the_same_with_our_layers(cpu_library: CpuLibrary) -> None:
    theirs = kernels.tinyllama(None)
    ours = kernels.tinyllama(cpu_library, theirs.parameters())
    tokens = mx.array([[3, 4, 5]])
    assert np.allclose(np.array(theirs(tokens)), np.array(ours(tokens)), atol=1e-3)
    asked = kernels.whole_model(cpu_library, repeats=1)
    assert [line.what.split(",")[0] for line in asked] == ["decoding", "5 rows"]
