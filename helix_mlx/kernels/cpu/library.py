"""The compiled CPU kernels: loaded from the cache or compiled on first use, and tested before use."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import mlx.core as mx

from helix_mlx.files import cache_folder
from helix_mlx.kernels.cpu.build import (
    MODULE,
    LibraryError,
    Stamp,
    Toolchain,
    compile_library,
    nanobind_version,
    store,
    stored,
)
from helix_mlx.types import Notice


@dataclass(frozen=True)
class CpuLibrary:
    """The kernels in memory.

    `module` is the extension: its operations take and give MLX arrays, lazily.
    """

    module: Any
    path: Path

    @property
    def form(self) -> str:
        """The instruction set in use: "avx512", "avx2", "neon" or "portable"."""
        return str(self.module.isa())

    @property
    def threads(self) -> int:
        """Threads that share a product."""
        return int(self.module.threads())

    def set_threads(self, count: int | None) -> None:
        """Set the number of threads; None uses all cores available to this process."""
        self.module.set_threads(count or 0)


def load_library(
    notice: Notice | None = None, *, folder: Path | None = None, toolchain: Toolchain | None = None
) -> CpuLibrary:
    """The CPU kernels, from the cache or compiled now.

    Args:
        notice: is told when it compiles, which takes seconds.
        folder: the cache; None takes the user's. One that cannot be written is done without.
        toolchain: what to compile with; None takes what this machine has.

    Raises:
        LibraryError: they cannot be had; the message says why.
    """
    notice = notice or (lambda _: None)
    folder = folder or cache_folder("cpu-kernels")
    stamp = Stamp.current(toolchain.nanobind_version if toolchain else nanobind_version())
    path = stored(stamp, folder)
    if path is not None:
        return _tried(path, stamp)
    toolchain = toolchain or Toolchain.find()
    notice(f"Compiling the CPU kernels with {toolchain.compiler} (one time)…")
    try:
        with tempfile.TemporaryDirectory(prefix="helix-mlx-") as temporary:
            compiled = compile_library(toolchain, Path(temporary))
            path = store(stamp, compiled, folder)
            if path is None:
                notice(f"Cannot write {folder}; the CPU kernels will be compiled again next time.")
            return _tried(path or compiled, stamp)
    except OSError as error:
        raise LibraryError(f"cannot compile, no disk space: {' '.join(str(error).split())[:200]}") from error


def _tried(path: Path, stamp: Stamp) -> CpuLibrary:
    """Load a library and run each of its operations once as a test.

    Raises:
        LibraryError: it does not load, or does not agree with MLX.
    """
    try:
        module = _imported(path)
    except ImportError as error:
        raise LibraryError(f"cannot load the compiled library: {' '.join(str(error).split())[:200]}") from error
    smoke_test(module, stamp)
    return CpuLibrary(module, path)


@cache
def _imported(path: Path) -> Any:
    """The extension module of a file; a process has each at most once."""
    spec = spec_from_loader(MODULE, ExtensionFileLoader(MODULE, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def smoke_test(module: Any, stamp: Stamp) -> None:
    """Check that a library's operations match MLX's.

    Raises:
        LibraryError: one is not, or MLX's arrays mean nothing to the library.
    """
    with mx.stream(mx.cpu):
        x = mx.arange(64, dtype=mx.float32).reshape(1, 64) / 64
        weight, frequencies = mx.arange(64, dtype=mx.float32) / 32, 0.5 ** mx.arange(32, dtype=mx.float32)
        codes, scales, biases = mx.quantize(mx.arange(512, dtype=mx.float32).reshape(8, 64) % 13, 64, 4)
        heads, periods = x[None, None], 1 / frequencies
        keys, values, gate, state = heads[..., :8], heads[..., 8:12], mx.full((1, 1, 1), 0.5), mx.ones((1, 1, 4, 8))
        expected = {
            "quantized_matmul": mx.quantized_matmul(x, codes, scales, biases, group_size=64, bits=4),
            "embedding": mx.dequantize(codes, scales, biases, group_size=64, bits=4)[3:5],
            "rms_norm": mx.fast.rms_norm(x, weight, 1e-5),
            "rope": mx.fast.rope(heads, 64, traditional=False, base=None, scale=1.0, offset=9, freqs=periods),
            "scan_state": 0.5 * state + values[..., None] * keys[..., None, :],
        }
        operands = {
            "quantized_matmul": (x, codes, scales, biases, 64, 4),
            "embedding": (mx.array([3, 4]), codes, scales, biases, 64, 4),
            "rms_norm": (x, weight, 1e-5),
            "rope": (heads, 9, frequencies, False, 1.0),
            "scan_state": (keys, values, gate, None, state, mx.array([1])),
        }
        for name, ours in operands.items():
            try:
                agrees = mx.allclose(getattr(module, name)(*ours), expected[name], rtol=1e-4, atol=1e-4).item()
            except (TypeError, AttributeError) as error:
                raise LibraryError(
                    f"nanobind {stamp.nanobind} does not fit mlx {stamp.mlx}; run: pip install 'helix-mlx[cpu]'"
                ) from error
            except (RuntimeError, ValueError) as error:
                raise LibraryError(f"the compiled library failed: {' '.join(str(error).split())[:200]}") from error
            if not agrees:
                raise LibraryError(f"{name} of the compiled library differs from MLX's; please report this")
