"""What a chat says of its memory before the first message."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from helix_mlx.cli.chat import greet
from helix_mlx.cli.console.terminal import Terminal
from helix_mlx.cli.session.status import memory_line, states_part
from tests.cli.fakes import FakeEngine

FULL = replace(FakeEngine().memory(), context=32_768, context_made_for=32_768, bytes=1_200_000_000, budget=12 * 10**9)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "context 32,768 · KV memory 1.2 GB, up to 12.0 GB"),
        ({"budget": 1_200_000_000}, "context 32,768 · KV memory 1.2 GB"),
        ({"context_made_for": 131_072}, "context 32,768 of the model's 131,072 · KV memory 1.2 GB, up to 12.0 GB"),
    ],
)
def test_context_and_memory_are_one_line(changes: dict[str, int], told: str) -> None:
    assert memory_line(replace(FULL, **changes)) == told


def test_a_person_is_told_and_a_pipe_is_not(terminal: Terminal) -> None:
    line = memory_line(FakeEngine().memory())
    out = terminal.out
    assert isinstance(out, io.StringIO)
    greet(FakeEngine(is_demo=False), terminal, interactive=False)
    assert out.getvalue() == ""
    greet(FakeEngine(is_demo=False), terminal, interactive=True)
    assert out.getvalue().splitlines()[1:] == [f"\x1b[2m{line}\x1b[0m"]


def test_recurrent_states_are_told_where_there_are_any() -> None:
    assert states_part(FULL) == ""
    told = states_part(replace(FULL, state_bytes=2_000_000, snapshot_bytes=1_200_000_000))
    assert told == "; recurrent states 2.0 MB, snapshots 1.2 GB"
