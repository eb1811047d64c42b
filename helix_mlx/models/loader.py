"""Loads a model: finds its folder, checks it, reads the weights and examines the layers' caches."""

from __future__ import annotations

import glob
import inspect
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import mlx.core as mx
from huggingface_hub import snapshot_download
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes, load_config, load_model

from helix_mlx.errors import ModelError
from helix_mlx.kernels.device import on_cpu
from helix_mlx.models.context import context_limit
from helix_mlx.models.files import FETCHED, WEIGHTS, weight_files
from helix_mlx.models.generation import check_end_tokens, check_generation_config
from helix_mlx.models.gguf.folder import FROM_GGUF, gguf_folder
from helix_mlx.models.hub import hub_errors
from helix_mlx.models.pairs import NamedPair, source_path
from helix_mlx.models.probe import Probed, probe
from helix_mlx.models.sources.local import local_model
from helix_mlx.models.sources.wheel import fetch_wheel, find_wheel
from helix_mlx.models.third_party import guarded, hush, one_line
from helix_mlx.paging.page_pool import LayerShape
from helix_mlx.recurrent.layout import CacheLayout
from helix_mlx.types import Notice, Progress


class LanguageModel(Protocol):
    """What Helix asks of mlx-lm's models: token ids `[B, M]` and a cache object a layer give logits `[B, M, V]`."""

    def __call__(self, inputs: mx.array, cache: Sequence[Any] | None = None) -> mx.array:
        """One forward pass."""
        ...


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    `probed` is what its layers keep; `max_context` the positions it was made for, or None where it does not say.
    """

    source: str
    folder: Path
    model: LanguageModel
    config: dict[str, Any]
    probed: Probed
    max_context: int | None

    @property
    def layers(self) -> tuple[LayerShape, ...]:
        """What each layer with keys and values keeps for a position."""
        return self.probed.layers

    @property
    def layout(self) -> CacheLayout:
        """What its cache objects stand for."""
        return self.probed.layout

    @property
    def vocab_size(self) -> int:
        """The width of its logits."""
        return self.probed.vocab_size

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return nbytes(self.model)


def fetch(source: str, notice: Notice | None = None, progress: Progress | None = None) -> Path:
    """The folder of a model: as named, from the cache, made from a GGUF file, or downloaded.

    Args:
        source: a folder, a repository on the hub, a GGUF file, or another program's model; see `local_model`.
        notice: is told what takes a while or is not as it was in a file.
        progress: is told how far the download of a wheel is, in megabytes; the hub's client shows its own.

    Raises:
        ModelError: there is no such model, it cannot be reached, is of a kind that Helix does not know, or the disk is
            full.
    """
    if (local := local_model(source)) is not None:
        return local if local.is_dir() else gguf_folder(local, notice)
    if (wheel := find_wheel(source)) is not None:
        return fetch_wheel(wheel, notice, progress)
    if (folder := source_path(source)) is not None:
        return folder
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise ModelError(
            f"there is no folder {source}; "
            "give a folder, a GGUF file, a repository such as org/model, or a pair listed by `helix-mlx pairs`"
        )
    with hub_errors(source):
        return Path(snapshot_download(source, allow_patterns=[*FETCHED, "*.py"]))


def fetch_target(named: NamedPair, notice: Notice | None = None, progress: Progress | None = None) -> str:
    """Have a pair's target on this machine, from the first place that has it; return that source.

    Args:
        named: the pair.
        notice: is told, in a line each, which places cannot be reached.
        progress: as for `fetch`.

    Raises:
        ModelError: it can be had nowhere.
    """
    if (here := named.target_here) is not None:
        return here
    *first, last = named.targets
    for source in first:
        try:
            fetch(source, notice, progress)
            return source
        except ModelError as error:
            if notice is not None:
                notice(f"{error}. Trying the package index instead.")
    fetch(last, notice, progress)
    return last


def load(
    source: str, *, trust_remote_code: bool = False, notice: Notice | None = None, folder: Path | None = None
) -> LoadedModel:
    """Load a model for the device in use.

    On a CPU everything that is not quantised, scales included, becomes float32: MLX multiplies 4-bit weights
    nine times faster with such scales there.

    Args:
        source: as for `fetch`.
        trust_remote_code: allow a model that brings Python code of its own.
        notice: as for `fetch`, and is told of files with weights that are left alone.
        folder: where the source is, when it has been fetched.

    Raises:
        ModelError: missing, unreadable, unsupported or unsafe.
    """
    folder = folder or fetch(source, notice)
    read_config(folder, trust_remote_code)
    model, config = read_model(folder, trust_remote_code=trust_remote_code, notice=notice)
    with guarded(f"cannot load the weights in {folder}", "download the model again"):
        if on_cpu():
            model.set_dtype(mx.float32)
        elif config.get(FROM_GGUF):  # norms are always in 32 bits there, and scales that 16 do not hold exactly
            model.set_dtype(getattr(mx, config["torch_dtype"]))
        mx.eval(model.parameters())
    with guarded(f"cannot use the model in {folder}", "download it again, or choose another model"):
        probed = probe(model, config)
    return LoadedModel(source, folder, model, config, probed, context_limit(config))


def read_model(
    folder: Path, *, trust_remote_code: bool = False, notice: Notice | None = None
) -> tuple[Any, dict[str, Any]]:
    """mlx-lm's model in a folder, of the files that count, and its configuration; the weights are still lazy.

    Args:
        folder: its configuration has been checked by `read_config`.
        trust_remote_code, notice: as in `load`.

    Raises:
        ModelError: weights are missing or damaged, or do not fit the configuration.
    """
    weights = weight_files(folder)
    if not weights.files:
        raise ModelError(f"{folder} has no weights (model*.safetensors); download the model again")
    for note in weights.notes:
        if notice is not None:
            notice(note)
    # Older mlx-lm, the last for Python 3.10, runs such code unasked; `read_config` has refused it by now.
    takes_switch = "trust_remote_code" in inspect.signature(load_model).parameters
    allowed: dict[str, Any] = {"trust_remote_code": trust_remote_code} if takes_switch else {}
    hush()
    cannot = guarded(f"cannot load the weights in {folder}", "download the model again")
    with cannot, _seen_by_mlx_lm(folder, weights.files) as seen:
        return load_model(seen, lazy=True, **allowed)


@contextmanager
def _seen_by_mlx_lm(folder: Path, files: Sequence[Path]) -> Iterator[Path]:
    """A folder in which mlx-lm finds just these weights: the model's own, or where that holds more, or has a name that
    is a pattern to mlx-lm, one with links to everything else in it.
    """
    if sorted(glob.glob(str(folder / WEIGHTS))) == sorted(map(str, files)):
        yield folder
        return
    with TemporaryDirectory(prefix="helix-") as name:
        seen = Path(name)
        for entry in os.listdir(folder):
            if not fnmatchcase(entry, WEIGHTS):
                (seen / entry).symlink_to((folder / entry).absolute())
        for number, file in enumerate(files):
            (seen / f"model{number}-{file.name}").symlink_to(file.absolute())
        yield seen


def read_config(folder: Path, trust_remote_code: bool) -> dict[str, Any]:
    """A model's configuration, checked before any weights are read.

    Raises:
        ModelError: it is missing, unreadable, of an unknown type, or wants to run code of its own.
    """
    if _settings(folder / "config.json") is None:
        raise ModelError(f"{folder} is not a model: it has no config.json; give a folder with an MLX model")
    check_generation_config(folder)  # mlx-lm reads it, too, and would fall over what is wrong in it
    with guarded(f"cannot read the configuration of {folder}", "download the model again"):
        config: dict[str, Any] = load_config(folder)
    check_end_tokens(folder / "config.json", config.get("eos_token_id"))
    if config.get("model_file") is not None:
        if not trust_remote_code:
            raise ModelError(
                f"{folder} wants to run its own code ({config['model_file']}); "
                "read it, and add --trust-remote-code if you trust it"
            )
        return config
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise ModelError(f"{folder / 'config.json'} has no model_type; give a folder with an MLX model")
    said = io.StringIO()
    unknown = f"mlx-lm does not know the model type {kind!r} of {folder}"
    with guarded(unknown, "update mlx-lm, or choose another model"):
        try:
            with redirect_stdout(said):
                _get_classes(config)  # mlx-lm's own table; it has no public name
        except SystemExit as error:  # what a module of mlx-lm does where it misses a package of its own
            raise ModelError(
                f"mlx-lm cannot run the model type {kind!r} ({said.getvalue().strip()}); choose another model"
            ) from error
    return config


def _settings(file: Path) -> dict[str, Any] | None:
    """What a file of settings holds; None where there is no such file.

    Raises:
        ModelError: it holds something else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} is damaged: {one_line(error)}; download the model again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} contains no settings; give a folder with an MLX model")
    return found


def evaluate_all(model: LanguageModel) -> None:
    """Compute every array that a model holds, those among them that are no parameters, such as a rope's frequencies.

    What is still lazy belongs to the thread that made it, and no other one may use it.
    """
    assert isinstance(model, Module)
    arrays: list[mx.array] = []
    for module in model.modules():
        for value in (*module.values(), *vars(module).values()):
            arrays += [each for each in (value if isinstance(value, (list, tuple)) else (value,)) if _is_array(each)]
    mx.eval(arrays)


def _is_array(value: object) -> bool:
    return isinstance(value, mx.array)


def nbytes(model: LanguageModel) -> int:
    """Bytes of a model's weights."""
    assert isinstance(model, Module)
    leaves: Any = tree_flatten(model.parameters())
    return sum(array.nbytes for _, array in leaves)
