"""The compiled kernels: what is kept, what is refused and why, and that nothing half-written is ever loaded.

Most tests compile with a stand-in for the compiler that hands out the library which the session has compiled already.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from helix_mlx.errors import SettingsError
from helix_mlx.files import cache_folder
from helix_mlx.kernels.cpu import build
from helix_mlx.kernels.cpu.build import LibraryError, Stamp, Toolchain, stored
from helix_mlx.kernels.cpu.choice import choose_kernels
from helix_mlx.kernels.cpu.library import CpuLibrary, load_library, smoke_test

COMPILER = """#!{python}
import shutil, sys, time
out = sys.argv[sys.argv.index("-o") + 1]
open(out, "w").close()
if "-shared" in sys.argv:
    open({log!r}, "a").write("linked\\n")
    time.sleep({seconds})
    shutil.copy({library!r}, out)
"""
LOAD = """
import sys
from pathlib import Path
from helix_mlx.kernels.cpu import build
from helix_mlx.kernels.cpu.build import Toolchain
from helix_mlx.kernels.cpu.library import load_library
folder, compiler = sys.argv[1:]
library = load_library(folder=Path(folder), toolchain=Toolchain(compiler, Path(), "0", Path()))
assert library.path.parent == Path(folder)
"""
FORK = """
import os, sys
from pathlib import Path
import mlx.core as mx
from helix_mlx.kernels.cpu.library import load_library
library = load_library(folder=Path(sys.argv[1]))
library.set_threads(3)
codes, scales, biases = mx.quantize(mx.random.normal((4096, 512)), 64, 4)
x = mx.random.normal((3, 512))

def product():
    return library.module.quantized_matmul(x, codes, scales, biases, 64, 4)

expected = product()
mx.eval(expected)
child = os.fork()
if child == 0:
    # MLX's own threads are gone in a child too: it needs another stream.
    with mx.stream(mx.new_stream(mx.cpu)):
        os._exit(0 if mx.array_equal(product(), expected) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert mx.array_equal(product(), expected)
"""


class Bench:
    """A cache folder, a stand-in for the compiler, and what was told."""

    def __init__(self, library: CpuLibrary, root: Path, seconds: float = 0.0) -> None:
        self.folder = root / "cache"
        self.log = root / "log"
        self.told: list[str] = []
        compiler = root / "c++"
        compiler.write_text(
            COMPILER.format(python=sys.executable, library=str(library.path), log=str(self.log), seconds=seconds)
        )
        compiler.chmod(0o755)
        self.toolchain = Toolchain(str(compiler), Path(), "0", Path())

    def load(self) -> CpuLibrary:
        return load_library(self.told.append, folder=self.folder, toolchain=self.toolchain)

    @property
    def compiled(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    @property
    def names(self) -> list[str]:
        return sorted(path.suffix for path in self.folder.iterdir())


@pytest.fixture
def bench(cpu_library: CpuLibrary, tmp_path: Path) -> Bench:
    return Bench(cpu_library, tmp_path)


def product(library: CpuLibrary) -> float:
    codes, scales, biases = mx.quantize(mx.ones((8, 64)), 64, 4)
    return float(library.module.quantized_matmul(mx.ones((1, 64)), codes, scales, biases, 64, 4)[0, 0].item())


def test_it_is_compiled_once_and_kept(bench: Bench) -> None:
    for _ in range(3):
        assert product(bench.load()) == 64.0
    assert bench.compiled == 1
    assert len(bench.told) == 1
    assert bench.names == [".json", ".so"]


def test_a_truncated_library_is_compiled_again(bench: Bench) -> None:
    path = bench.load().path
    whole = path.read_bytes()
    path.unlink()  # the file is in use: its content must not change
    path.write_bytes(whole[: len(whole) // 2])
    assert stored(Stamp.current("0"), bench.folder) is None
    assert product(bench.load()) == 64.0
    assert bench.compiled == 2
    assert path.read_bytes() == whole


@pytest.mark.parametrize("note", ["", "{", "[]", "{}", '{"library": 3, "stamp": {}}'])
def test_a_damaged_note_is_no_note(bench: Bench, note: str) -> None:
    bench.load()
    next(bench.folder.glob("*.json")).write_text(note)
    assert product(bench.load()) == 64.0
    assert bench.compiled == 2


@pytest.mark.parametrize("field", ["mlx", "python", "nanobind", "cpu", "sources"])
def test_a_library_of_another_stamp_is_never_loaded(bench: Bench, field: str) -> None:
    bench.load()
    stamp = Stamp.current("0")
    other = replace(stamp, **{field: "another"})
    assert stored(other, bench.folder) is None
    note = bench.folder / f"{stamp.key}.json"
    content = json.loads(note.read_text())
    content["stamp"][field] = "another"
    note.write_text(json.dumps(content))
    assert stored(stamp, bench.folder) is None


def test_a_cache_that_cannot_be_written_is_done_without(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    bench.folder = tmp_path / "file" / "cache"
    library = bench.load()
    assert product(library) == 64.0
    assert not library.path.exists()
    assert bench.told[-1].startswith("Cannot write ")


def test_without_a_home_nothing_is_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    bench.folder = cache_folder("cpu-kernels")
    assert product(bench.load()) == 64.0
    assert bench.told[-1].startswith("Cannot write ")


def test_a_full_disk_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**settings: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    with pytest.raises(LibraryError, match="No space left on device"):
        bench.load()


def test_two_processes_may_compile_at_once(cpu_library: CpuLibrary, tmp_path: Path) -> None:
    bench = Bench(cpu_library, tmp_path, seconds=0.5)
    command = [sys.executable, "-c", LOAD, str(bench.folder), bench.toolchain.compiler]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert bench.compiled == 2
    assert bench.names == [".json", ".so"]


def test_a_compiler_that_fails_leaves_nothing(bench: Bench) -> None:
    Path(bench.toolchain.compiler).write_text("#!/bin/sh\necho 'qmm.cpp:1: error: no such thing' >&2\nexit 1\n")
    with pytest.raises(LibraryError, match=r"failed: qmm\.cpp:1: error: no such thing"):
        bench.load()
    assert not bench.folder.exists()


def test_a_compiler_that_does_not_run(bench: Bench) -> None:
    Path(bench.toolchain.compiler).unlink()
    with pytest.raises(LibraryError, match="cannot run "):
        bench.load()


def test_a_library_that_does_not_load(bench: Bench) -> None:
    compiler = Path(bench.toolchain.compiler)
    compiler.write_text(compiler.read_text().replace("shutil.copy(", "print("))
    with pytest.raises(LibraryError, match="cannot load the compiled library"):
        bench.load()


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Once it says why, and models take MLX's own path; whoever insists gets an error."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(build, "nanobind_version", lambda: "0")
    told: list[str] = []
    kernels = choose_kernels("auto", notice=told.append, folder=tmp_path)
    assert kernels.library is None
    assert kernels.settings() == {"cpu_kernels": "off", "cpu_threads": None}
    assert "there is no C++ compiler" in kernels.reason
    assert len(told) == 1
    assert kernels.reason in told[0]
    with pytest.raises(SettingsError, match=r"cpu-kernels is on, but there is no C\+\+ compiler"):
        choose_kernels("on", folder=tmp_path)


def test_without_nanobind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    with pytest.raises(LibraryError, match="nanobind is not installed"):
        load_library(folder=tmp_path)


def test_a_library_in_the_cache_needs_no_compiler(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.load()
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert product(bench.load()) == 64.0


def failing(error: Exception) -> Any:
    def quantized_matmul(*operands: Any) -> mx.array:
        raise error

    return quantized_matmul


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (failing(TypeError("incompatible function arguments")), "nanobind 0 does not fit mlx"),
        (failing(RuntimeError("no kernel")), "failed: no kernel"),
        (lambda x, *others: mx.zeros((1, 8)), "differs from MLX's"),
    ],
)
def test_a_library_that_cannot_multiply_is_refused(function: Any, told: str) -> None:
    """A library of another nanobind loads, and then knows no MLX array."""
    with pytest.raises(LibraryError, match=told):
        smoke_test(SimpleNamespace(quantized_matmul=function), Stamp.current("0"))


def test_off_is_off_and_a_gpu_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_kernels("off").library is None
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    assert "GPU" in choose_kernels("auto").reason
    with pytest.raises(SettingsError, match="the models run on a GPU"):
        choose_kernels("on")


def test_threads_are_a_setting(cpu_library: CpuLibrary) -> None:
    cpu_library.set_threads(3)
    assert cpu_library.threads == 3
    cpu_library.set_threads(None)
    assert cpu_library.threads >= 1


def test_a_forked_child_has_threads_of_its_own(cpu_library: CpuLibrary) -> None:
    command = [sys.executable, "-c", FORK, str(cpu_library.path.parent)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
