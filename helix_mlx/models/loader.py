"""From a name to a model in memory: the folder, its checks, its weights, and what its layers keep."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
from huggingface_hub import snapshot_download
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes, load_config, load_model

from helix_mlx.errors import ModelError
from helix_mlx.kernels.device import on_cpu
from helix_mlx.models.hub import hub_errors
from helix_mlx.models.pairs import source_path
from helix_mlx.models.probe import probe
from helix_mlx.models.tokenizer import one_line
from helix_mlx.paging.page_pool import LayerShape

_FILES = ["*.json", "model*.safetensors", "*.py", "tokenizer.model", "*.tiktoken", "*.txt", "*.jinja"]


class LanguageModel(Protocol):
    """What Helix asks of mlx-lm's models: token ids `[B, M]` and a cache object a layer give logits `[B, M, V]`."""

    def __call__(self, inputs: mx.array, cache: Sequence[Any] | None = None) -> mx.array:
        """One forward pass."""
        ...


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    `layers` is what each of its cache objects keeps; `vocab_size` the width of its logits; `max_context` the
    positions it was made for, or None where it does not say.
    """

    source: str
    folder: Path
    model: LanguageModel
    config: dict[str, Any]
    layers: tuple[LayerShape, ...]
    vocab_size: int
    max_context: int | None

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return nbytes(self.model)


def fetch(source: str) -> Path:
    """The folder of a model: as named, from the cache, or downloaded from the hub.

    Raises:
        ModelError: there is no such folder or repository, it cannot be reached, or the disk is full.
    """
    if (folder := source_path(source)) is not None:
        return folder
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise ModelError(
            f"there is no folder {source}; "
            "name a folder, a repository such as org/model, or a pair of `helix-mlx pairs`"
        )
    with hub_errors(source):
        return Path(snapshot_download(source, allow_patterns=_FILES))


def load(source: str, *, trust_remote_code: bool = False) -> LoadedModel:
    """Load a model for the device in use.

    On a CPU everything that is not quantised, scales included, becomes float32: MLX multiplies 4-bit weights
    nine times faster with such scales there.

    Args:
        source: a folder, or a repository on the hub.
        trust_remote_code: allow a model that brings Python code of its own.

    Raises:
        ModelError: missing, unreadable, unsupported or unsafe.
    """
    folder = fetch(source)
    config = read_config(folder, trust_remote_code)
    try:
        # Older mlx-lm, the last for Python 3.10, runs such code unasked; `read_config` has refused it by now.
        asks = "trust_remote_code" in inspect.signature(load_model).parameters
        allowed: dict[str, Any] = {"trust_remote_code": trust_remote_code} if asks else {}
        model, config = load_model(folder, lazy=True, **allowed)
        if on_cpu():
            model.set_dtype(mx.float32)
        mx.eval(model.parameters())
    except FileNotFoundError as error:
        raise ModelError(f"{folder} holds no weights (model*.safetensors); fetch the model again") from error
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"cannot load the weights in {folder}: {one_line(error)}; fetch the model again") from error
    layers, vocab_size = probe(model, config)
    return LoadedModel(source, folder, model, config, layers, vocab_size, context_limit(config))


def read_config(folder: Path, trust_remote_code: bool) -> dict[str, Any]:
    """A model's configuration, checked before any of its weights is read.

    Raises:
        ModelError: it is missing, unreadable, of an unknown type, or wants to run code of its own.
    """
    try:
        config: Any = load_config(folder)
    except FileNotFoundError as error:
        raise ModelError(f"{folder} is no model: it has no config.json; name a folder with an MLX model") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{folder / 'config.json'} is damaged: {one_line(error)}; fetch the model again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'} holds no settings; name a folder with an MLX model")
    if config.get("model_file") is not None:
        if not trust_remote_code:
            raise ModelError(
                f"{folder} wants to run its own code ({config['model_file']}); "
                "read it, and add --trust-remote-code if you trust it"
            )
        return config
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{folder / 'config.json'} names no model_type; name a folder with an MLX model")
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            _get_classes(config)  # mlx-lm's own table; it has no public name
    except SystemExit as error:  # what a module of mlx-lm does where it misses a package of its own
        raise ModelError(
            f"mlx-lm cannot run the model type {config['model_type']!r} ({said.getvalue().strip()}); name another model"
        ) from error
    except (ValueError, AttributeError, ImportError) as error:  # a module of mlx-lm may be no model
        raise ModelError(
            f"mlx-lm does not know the model type {config['model_type']!r} of {folder}; "
            "update mlx-lm, or name another model"
        ) from error
    return config


def context_limit(config: dict[str, Any]) -> int | None:
    """The positions a model was made for, or None where its configuration does not say.

    Where positions are learned (`n_positions`), the drafts behind the last token have to have one, too.
    """
    for part in (config, config.get("text_config") or {}):
        for name, spare in (("max_position_embeddings", 0), ("n_positions", 16), ("n_ctx", 16), ("max_seq_len", 0)):
            if isinstance(part.get(name), int):
                return int(part[name]) - spare
    return None


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
