from __future__ import annotations

import pytest

from helix_mlx.bench.prompts import WORKLOADS, filled, mixed_prompts, workload
from helix_mlx.cli.bench import WORKLOADS as OFFERED
from helix_mlx.engine.engine import Engine


@pytest.mark.parametrize("name", WORKLOADS)
def test_each_workload_has_prompts_of_its_own(name: str) -> None:
    prompts = workload(name)
    assert len(prompts) >= 6
    assert len({prompt.text for prompt in prompts}) == len(prompts)
    assert {prompt.kind for prompt in prompts} <= {"chat", "code"}
    assert len(mixed_prompts()) == 20


def test_the_command_offers_all_of_them() -> None:
    assert OFFERED == WORKLOADS


def test_a_prompt_is_filled_up_from_its_own_workload_or_cut(engine: Engine) -> None:
    alone = filled(engine, "code", 1, None)
    assert alone == workload("code")[1].tokens(engine)
    long = filled(engine, "code", 1, 300)
    assert len(long) == 300
    assert long[-len(alone) :] == alone
    assert filled(engine, "code", 1, 2) == alone[-2:]
    assert filled(engine, "code", 1 + len(workload("code")), None) == alone
