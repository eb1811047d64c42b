"""Help and a chat, word for word. Renew them with `python -m tests.cli.golden_files`, and read the difference."""

from __future__ import annotations

from importlib import metadata

import pytest

from tests.cli.golden_files import GOLDEN, NAMES, shown

CLICK = "8.5."
"""The version whose layout the help texts have; another one may wrap lines elsewhere."""


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shown_is_what_the_golden_file_says(name: str) -> None:
    if name.startswith("help") and not metadata.version("click").startswith(CLICK):
        pytest.skip(f"click {metadata.version('click')} lays help out in its own way; the golden files are of {CLICK}x")
    assert shown(name) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_every_golden_file_is_compared() -> None:
    assert sorted(file.stem for file in GOLDEN.iterdir()) == sorted(NAMES)
