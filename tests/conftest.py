"""What tests of several floors share."""

from __future__ import annotations

import pytest

from helix_mlx.kernels.cpu_build import LibraryError
from helix_mlx.kernels.cpu_library import CpuLibrary, load_library


@pytest.fixture(scope="session")
def cpu_library() -> CpuLibrary:
    """The CPU kernels, compiled once for this machine; a test that needs them is skipped where they cannot be had."""
    try:
        return load_library()
    except LibraryError as error:
        pytest.skip(f"the CPU kernels cannot be had: {error}")
