"""Real models, for tests that are skipped where the package index cannot be reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.errors import ModelError
from helix_mlx.kernels.cpu.choice import choose_kernels
from helix_mlx.models.pair import load_pair
from tests.real.files import gemma_gguf, smollm2_gguf

HERE = Path(__file__).parent
CANNOT_FETCH = "cannot fetch"
"""Begins what is said where the index cannot be reached; everything else that goes wrong is an error."""
NOT_TESTED = "was not tested"
CONFIG = EngineConfig(calibrate=False, max_context=1024, max_rows=128)
"""With rows for all drafts of a whole batch."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder are of their own step; the first one waits for downloads."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.real)
            item.add_marker(pytest.mark.timeout(1200))


def had(name: str, fetch: Callable[[], Path]) -> Path:
    """A model's file; without one, whatever needs it is skipped, and the last lines of the run say what and why."""
    try:
        return fetch()
    except ModelError as error:
        if not str(error).startswith(CANNOT_FETCH):
            raise
        pytest.skip(f"{name} {NOT_TESTED}: {error}")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file."""
    return had("SmolLM2-135M-Instruct", smollm2_gguf)


@pytest.fixture(scope="session")
def gemma() -> Path:
    """Gemma 3 270M as a GGUF file."""
    return had("Gemma 3 270M", gemma_gguf)


@pytest.fixture(scope="module")
def smollm2_engine(smollm2: Path) -> Iterator[Engine]:
    """SmolLM2 with itself as the draft, of which every token is kept; n-grams are the other drafter."""
    alone = load_pair(target=str(smollm2), draft="none").with_kernels(choose_kernels("auto"))
    with Engine(replace(alone, draft=alone.target), CONFIG) as engine:
        yield engine


@pytest.fixture(scope="module")
def gemma_engine(gemma: Path, smollm2: Path) -> Iterator[Engine]:
    """Gemma with SmolLM2 as the draft, which has another vocabulary."""
    pair = load_pair(target=str(gemma), draft=str(smollm2))
    with Engine(pair.with_kernels(choose_kernels("auto")), CONFIG) as engine:
        yield engine


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """The last line, where models could not be had: behind pytest's own."""
    yield
    skipped = [each for each in terminalreporter.stats.get("skipped", []) if NOT_TESTED in str(each.longrepr)]
    if skipped:
        terminalreporter.write_line(
            f"Real models: {len(skipped)} tests did not run, as the models could not be fetched."
        )
