"""Starts the worker processes of a training: one a core, joined by MLX's ring over the loopback interface."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# Debian's OpenBLAS: MLX's wheel for Linux brings a BLAS that is thirty times slower.
OPENBLAS = (
    Path("/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0"),
    Path("/usr/lib/aarch64-linux-gnu/openblas-pthread/libopenblas.so.0"),
)


def worker_environment() -> dict[str, str]:
    """The environment of a worker. Only on Linux does it differ from our own.

    glibc gives large buffers back to the system at once and faults them in again at the next operation, which takes
    ten times as long as the operation itself: the thresholds keep them.
    """
    environment = dict(os.environ, TOKENIZERS_PARALLELISM="false")
    if platform.system() != "Linux":
        return environment
    environment |= {
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "4000000000",
        "MALLOC_TRIM_THRESHOLD_": "8000000000",
        "MALLOC_TOP_PAD_": "268435456",
    }
    if "avx512f" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        environment["OPENBLAS_CORETYPE"] = "SkylakeX"
    for library in OPENBLAS:
        if library.exists():
            environment.setdefault("LD_PRELOAD", str(library))
    return environment


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run_workers(arguments: Sequence[str], workers: int, folder: Path) -> None:
    """Run ``python -m helix_mlx.convert.builtin.compute.worker`` in ``workers`` joined processes, to their end."""
    environment = worker_environment()
    if workers > 1:
        hosts = folder / "hosts.json"
        hosts.write_text(json.dumps([[f"127.0.0.1:{_free_port()}"] for _ in range(workers)]), encoding="utf-8")
        environment["MLX_HOSTFILE"] = str(hosts)
    command = [sys.executable, "-m", "helix_mlx.convert.builtin.compute.worker", *arguments]
    running = [
        subprocess.Popen(command, env=environment | ({"MLX_RANK": str(rank)} if workers > 1 else {}))
        for rank in range(workers)
    ]
    codes = [process.wait() for process in running]
    if any(codes):
        raise subprocess.CalledProcessError(next(code for code in codes if code), command)
