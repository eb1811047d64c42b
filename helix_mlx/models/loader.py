"""From a name to a model in memory: the folder, its checks, its weights, and what its layers keep."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
from huggingface_hub import snapshot_download
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.utils import _get_classes, load_config, load_model

from helix_mlx.errors import ModelError
from helix_mlx.kernels.device import on_cpu
from helix_mlx.models.generation import check_generation_config
from helix_mlx.models.hub import hub_errors
from helix_mlx.models.pairs import source_path
from helix_mlx.models.tokenizer import one_line
from helix_mlx.paging.page_pool import LayerShape

_FILES = ["*.json", "model*.safetensors", "*.py", "tokenizer.model", "*.tiktoken", "*.txt", "*.jinja"]
_GROUPED_MASKS = frozenset({"gemma2"})
"""Families that do their own attention with grouped query heads on an axis of their own."""


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
    check_generation_config(folder)  # mlx-lm reads it, too, and would fall over what is wrong in it
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
    try:
        _get_classes(config)  # mlx-lm's own table; it has no public name
    # A module of mlx-lm may be no model, or end the process where it misses a package of its own.
    except (ValueError, AttributeError, ImportError, SystemExit) as error:
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


def probe(model: Any, config: dict[str, Any]) -> tuple[tuple[LayerShape, ...], int]:
    """What each layer keeps for a position, and the width of the logits, read off one pass that is never evaluated.

    Raises:
        ModelError: a layer keeps something else than keys and values.
    """
    for name, module in model.named_modules():
        if type(module).__name__ == "DynamicNTKScalingRoPE":  # by name: older mlx-lm has no such class
            raise ModelError(
                f"{name} turns by the length of the text, which speculation cannot take back; name another model"
            )
    windows = [_window(index, cache) for index, cache in enumerate(make_prompt_cache(model))]
    probes = [_ProbeCache() for _ in windows]
    try:
        logits = model(mx.zeros((2, 1), mx.int32), cache=probes)
    except (ValueError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        raise ModelError(
            f"this model does not take sequences of different lengths in one batch ({one_line(error)}); name another"
        ) from error
    shapes = []
    for index, (probed, window) in enumerate(zip(probes, windows, strict=True)):
        if probed.shape is None:
            raise ModelError(f"layer {index} keeps no keys and values that Helix can page; name another model")
        shapes.append(replace(probed.shape, window=window, mask_rank=_mask_rank(config)))
    return tuple(shapes), int(logits.shape[-1])


def _window(index: int, cache: object) -> int | None:
    if type(cache) is KVCache:
        return None
    if type(cache) is RotatingKVCache and cache.keep == 0:
        return int(cache.max_size)
    raise ModelError(
        f"layer {index} keeps a {type(cache).__name__}, which Helix cannot roll back yet; "
        "it runs models whose layers all keep keys and values"
    )


def _mask_rank(config: dict[str, Any]) -> int:
    grouped = config.get("num_attention_heads") != config.get("num_key_value_heads")
    return 5 if config.get("model_type") in _GROUPED_MASKS and grouped else 4


class _ProbeCache:
    """Notes the shapes of what a layer stores."""

    def __init__(self) -> None:
        self.offset = mx.array([3, 5], mx.int32)
        self.shape: LayerShape | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        (_, key_heads, _, key_dim), (_, value_heads, _, value_dim) = keys.shape, values.shape
        self.shape = LayerShape(key_heads, key_dim, value_heads, value_dim, keys.dtype)
        return keys, values

    def make_mask(self, N: int, window_size: int | None = None, return_array: bool = False) -> mx.array | None:  # noqa: N803
        return mx.ones((2, 1, N, N), mx.bool_) if return_array else None


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
