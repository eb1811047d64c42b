"""What the benchmark of conversion measures is the conversion's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from helix_mlx.bench.studies.conversion import PROGRAMS, convert
from tests.convert.checkpoints import write_checkpoint


@pytest.mark.parametrize("name", PROGRAMS)
def test_memory_is_the_conversions_and_not_its_parents(name: str, tmp_path: Path) -> None:
    """On Linux what a process held is passed on to those it starts, and would hide what they hold."""
    source = write_checkpoint(tmp_path / "source", hidden_size=256, intermediate_size=4096, num_hidden_layers=2)
    parents = 1 << 30
    held = bytearray(parents)
    held[:: 1 << 12] = bytes(parents >> 12)  # every page of it
    del held
    found = convert(name, source, tmp_path / "out")
    assert found["bytes"] > 1 << 20
    assert found["whole"] < parents
