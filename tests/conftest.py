"""What tests of several floors share."""

from __future__ import annotations

import pytest
from hypothesis import settings

from helix_mlx.kernels.cpu.build import LibraryError
from helix_mlx.kernels.cpu.library import CpuLibrary, load_library

# The same examples in every run: what fails here fails everywhere.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")


@pytest.fixture(scope="session")
def cpu_library() -> CpuLibrary:
    """The CPU kernels, compiled once for this machine; a test that needs them is skipped where they cannot be had."""
    try:
        return load_library()
    except LibraryError as error:
        pytest.skip(f"the CPU kernels cannot be had: {error}")
