"""Decides once whether models use the CPU kernels, and gives the reason if not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helix_mlx.errors import SettingsError
from helix_mlx.kernels.cpu.build import LibraryError
from helix_mlx.kernels.cpu.library import CpuLibrary, load_library
from helix_mlx.kernels.device import on_cpu
from helix_mlx.types import Notice


@dataclass(frozen=True)
class CpuKernels:
    """The CPU library, or None and the reason."""

    library: CpuLibrary | None = None
    reason: str = "nobody asked for them"

    def settings(self) -> dict[str, Any]:
        """What is in use, under the words of the command line."""
        library = self.library
        return {
            "cpu_kernels": library.form if library else "off",
            "cpu_threads": library.threads if library else None,
        }


NO_KERNELS = CpuKernels()


def choose_kernels(
    wanted: str, threads: int | None = None, notice: Notice | None = None, folder: Path | None = None
) -> CpuKernels:
    """The kernels for the device in use.

    Args:
        wanted: "off"; "on", or an error; "auto", or MLX's own path, which `notice` is told of.
        threads: as `CpuLibrary.set_threads`.
        notice: is told what takes a while or is not as it was wished.
        folder: where compiled kernels are kept; None takes the user's cache.

    Raises:
        SettingsError: they are wanted "on" and cannot be had; the message says why.
    """
    if wanted == "off":
        return CpuKernels(reason="they are switched off")
    if not on_cpu():
        if wanted == "on":
            raise SettingsError("cpu-kernels is on, but the models run on a GPU; use auto")
        return CpuKernels(reason="the models run on a GPU")
    try:
        library = load_library(notice, folder=folder)
    except LibraryError as error:
        if wanted == "on":
            raise SettingsError(f"cpu-kernels is on, but {error}") from error
        if notice is not None:
            notice(f"Helix's CPU kernels are not used: {error}")
        return CpuKernels(reason=str(error))
    library.set_threads(threads)
    return CpuKernels(library, "")
