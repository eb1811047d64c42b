"""Compiles the CPU kernels with the system's compiler against the installed MLX, and caches the result."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path

import mlx.core as mx

from helix_mlx.errors import HelixError
from helix_mlx.files import write_beside

MODULE = "helix_cpu"
SOURCES = Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")
TIMEOUT = 600
"""Timeout for one file in seconds; generous for busy machines."""

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
_X86: dict[str, tuple[str, ...]] = {"portable": (), "avx2": _AVX2, "avx512": _AVX512}
_ARM: dict[str, tuple[str, ...]] = {"portable": (), "neon": ()}
FORMS: dict[str, dict[str, tuple[str, ...]]] = {"x86_64": _X86, "amd64": _X86, "aarch64": _ARM, "arm64": _ARM}
"""Compiler flags of each variant of a `*_kernel.cpp` file, by machine; other machines use the portable one."""

_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=off", "-w")
# mlx.core's own types are found only by an extension of the same domain.
_DEFINES = ("-DNB_DOMAIN=mlx", "-DNDEBUG")


class LibraryError(HelixError):
    """The CPU kernels are unavailable; the message gives the reason in one short sentence."""


@dataclass(frozen=True)
class Toolchain:
    """What a library is compiled with: a compiler, nanobind's and MLX's folders, and nanobind's version."""

    compiler: str
    nanobind: Path
    nanobind_version: str
    mlx: Path

    @classmethod
    def find(cls) -> Toolchain:
        """The toolchain of this machine and this Python.

        Raises:
            LibraryError: a part of it is missing.
        """
        version = nanobind_version()
        compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
        if compiler is None:
            raise LibraryError(f"there is no C++ compiler ({', '.join(COMPILERS)}); install one, such as g++")
        nanobind = util.find_spec("nanobind")
        assert nanobind is not None
        assert nanobind.origin is not None
        mlx = Path(mx.__file__).parent
        if not (mlx / "include" / "mlx" / "version.h").exists():
            raise LibraryError(f"the installed mlx has no headers ({mlx / 'include'}); reinstall it with pip")
        return cls(compiler, Path(nanobind.origin).parent, version, mlx)


def nanobind_version() -> str:
    """The version of nanobind that is installed.

    Raises:
        LibraryError: it is not.
    """
    try:
        return metadata.version("nanobind")
    except metadata.PackageNotFoundError:
        raise LibraryError("nanobind is not installed; run: pip install 'helix-mlx[cpu]'") from None


@dataclass(frozen=True)
class Stamp:
    """What a compiled library was built for; one with another stamp is never loaded."""

    mlx: str
    python: str
    nanobind: str
    cpu: str
    sources: str

    @classmethod
    def current(cls, nanobind_version: str) -> Stamp:
        """The stamp of a library that is compiled now."""
        python = f"{sys.implementation.cache_tag}-{sysconfig.get_config_var('SOABI')}"
        return cls(metadata.version("mlx"), python, nanobind_version, _cpu(), _digest(*sorted(SOURCES.glob("*.[ch]*"))))

    @property
    def key(self) -> str:
        """A name for it in the cache."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def stored(stamp: Stamp, folder: Path) -> Path | None:
    """The cached library for a stamp, if it exists and is intact."""
    try:
        note = json.loads((folder / f"{stamp.key}.json").read_text(encoding="utf-8"))
        library = folder / str(note["library"])
        fits = note["stamp"] == asdict(stamp) and note["digest"] == _digest(library)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return library if fits else None


def store(stamp: Stamp, library: Path, folder: Path) -> Path | None:
    """Put a compiled library into a cache folder, or return None where that cannot be written.

    The library gets a name of its own content and the note about it comes last, each beside its place and then
    renamed, so that what others read is whole, however many write at once.
    """
    digest = _digest(library)
    name = f"{stamp.key}-{digest[:16]}.so"
    note = {"stamp": asdict(stamp), "library": name, "digest": digest}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_beside(folder / name, library.read_bytes(), mode=0o600)
        write_beside(folder / f"{stamp.key}.json", json.dumps(note, indent=2).encode(), mode=0o600)
    except OSError:
        return None
    return folder / name


def compile_library(toolchain: Toolchain, folder: Path) -> Path:
    """Compile all sources into a folder and link them there.

    Raises:
        LibraryError: the compiler fails, or does not run.
    """
    common = [toolchain.compiler, *_FLAGS, *_DEFINES, *(f"-I{path}" for path in _includes(toolchain)), "-c"]
    objects, commands = [], []
    for name, source, flags in _units(toolchain):
        objects.append(str(folder / f"{name}.o"))
        commands.append([*common, *flags, str(source), "-o", objects[-1]])
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(_run, commands))
    library = folder / f"{MODULE}.so"
    mlx = toolchain.mlx / "lib"
    undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-pthread"]
    _run(
        [
            toolchain.compiler,
            "-shared",
            *objects,
            f"-L{mlx}",
            "-lmlx",
            f"-Wl,-rpath,{mlx}",
            *undefined,
            "-o",
            str(library),
        ]
    )
    return library


def _units(toolchain: Toolchain) -> list[tuple[str, Path, Sequence[str]]]:
    """What is compiled: a name, a source and its flags each, the slowest first."""
    forms = FORMS.get(platform.machine().lower(), {"portable": ()})
    units: list[tuple[str, Path, Sequence[str]]] = []
    for source in sorted(SOURCES.glob("*.cpp")):
        if source.stem.endswith("_kernel"):
            for form, flags in forms.items():
                units.append((f"{source.stem}_{form}", source, (f"-DHELIX_ISA={form}", *flags)))
        else:
            units.append((source.stem, source, ()))
    nanobind = toolchain.nanobind / "src" / "nb_combined.cpp"
    return [("nanobind", nanobind, ("-O1",)), *units]


def _includes(toolchain: Toolchain) -> list[Path | str]:
    nanobind = toolchain.nanobind
    return [
        nanobind / "include",
        nanobind / "ext" / "robin_map" / "include",
        toolchain.mlx / "include",
        sysconfig.get_path("include"),
        sysconfig.get_path("platinclude"),
    ]


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LibraryError(f"cannot run {command[0]}: {' '.join(str(error).split())[:200]}") from error
    if done.returncode:
        lines = done.stderr.splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else "it does not say why")
        raise LibraryError(f"{command[0]} failed: {' '.join(first.split())[:200]}")


def _digest(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.name if len(files) > 1 else ''}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def _cpu() -> str:
    """The processor's type and features, because different machines may share a home folder."""
    features = ""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{sys.platform}-{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
