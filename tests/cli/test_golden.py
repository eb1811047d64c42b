"""Help and a chat, word for word. Renew them with `python -m tests.cli.golden_files`, and read the difference."""

from __future__ import annotations

import pytest

from tests.cli.golden_files import GOLDEN, NAMES, shown


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shown_is_what_the_golden_file_says(name: str) -> None:
    assert shown(name) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_every_golden_file_is_compared() -> None:
    assert sorted(file.stem for file in GOLDEN.iterdir()) == sorted(NAMES)
