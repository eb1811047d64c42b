"""Every arm of the benchmark of attention computes the same."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from helix_mlx.bench.studies.attention import Case, times
from helix_mlx.kernels.cpu.library import CpuLibrary


def test_all_arms_are_right_however_often_they_run(cpu_library: CpuLibrary) -> None:
    mx.random.seed(0)
    case = Case.random(75, 5)
    assert case.past == 70
    exact = case.exact()
    arms = [lambda: case.kernel(cpu_library), case.gathered, case.run, case.contiguous]
    for arm in [*arms, *arms]:
        assert np.allclose(np.array(arm()), exact, atol=1e-5)


def test_a_prompt_shorter_than_a_page_is_no_special_case(cpu_library: CpuLibrary) -> None:
    case = Case.random(2, 1)
    assert np.allclose(np.array(case.kernel(cpu_library)), case.exact(), atol=1e-5)


def test_arms_take_turns_and_two_rounds_do_not_count() -> None:
    ran: list[str] = []

    def arm(name: str) -> mx.array:
        ran.append(name)
        return mx.zeros(1)

    found = times({"a": lambda: arm("a"), "b": lambda: arm("b")}, repeats=3)
    assert ran == ["a", "b"] * 5
    assert {name: len(row) for name, row in found.items()} == {"a": 3, "b": 3}
