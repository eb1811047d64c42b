"""A head's weights: found in a target's folder or in one of their own, and written beside a converted target."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

from helix_mlx.errors import ModelError
from helix_mlx.models.files import MTP_WEIGHTS, weight_files
from helix_mlx.models.mtp.families import (
    FAMILIES,
    LAYER,
    Family,
    is_norm,
    one_layer_config,
    text_settings,
)
from helix_mlx.models.mtp.head import MTPHead, Trunk
from helix_mlx.models.third_party import guarded

_SHOWN = 2
_MODEL_LAYER = "model.layers.0."


@dataclass(frozen=True)
class Weights:
    """A head's weights by their own names, as a file has them.

    `raw` tells an original checkpoint from one in MLX's layout.
    """

    arrays: dict[str, mx.array]
    raw: bool


def family_of(config: Mapping[str, Any]) -> Family | None:
    """How the checkpoints of a target hold a head; None where Helix knows none for its family."""
    model_class, _ = _get_classes(dict(config))
    return FAMILIES.get(model_class.__module__.rsplit(".", 1)[-1])


def is_sidecar(folder: Path) -> bool:
    """Whether a folder holds a head alone, as published beside targets."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str(config["model_type"]).endswith("_mtp")
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def read_head(folder: Path, config: Mapping[str, Any], model: Any) -> MTPHead | None:
    """The head in a folder, for a target; None where there is none. Nothing of it is in memory yet.

    Args:
        folder: the target's, or that of a head alone.
        config: the target's.
        model: the target.

    Raises:
        ModelError: the head is damaged: weights are missing, of another shape or unreadable; or it is for a family
            whose heads Helix does not know.
    """
    family, alone = family_of(config), is_sidecar(folder)
    if family is None:
        if alone:
            raise ModelError(f"Helix knows no multi-token-prediction heads for {config.get('model_type')!r}")
        return None
    with guarded(f"cannot read the weights in {folder}", "fetch them again"):
        found = _found(folder, family, text_settings(config).get("num_hidden_layers", 0), alone)
        if not found.arrays:
            return None
        own = json.loads((folder / "config.json").read_text(encoding="utf-8")) if alone else config
        return _filled(found, family, config, own.get("quantization") or {}, model)


def new_head(config: Mapping[str, Any], family: Family, model: Any) -> MTPHead:
    """A head for a target, with random weights.

    Args:
        config, model: the target's.
        family: its row.
    """
    layer = _one_layer_model(config, family)
    settings = text_settings(config)
    return MTPHead(
        Trunk(model),
        getattr(layer, "language_model", layer).model.layers[0],
        int(settings["hidden_size"]),
        float(settings["rms_norm_eps"]),
        family.hidden_first,
    )


def save_head(head: MTPHead, folder: Path) -> None:
    """Write a head's weights into a target's folder, as `mtp.safetensors`."""
    arrays: Any = tree_flatten(head.parameters())
    mx.save_safetensors(
        str(folder / MTP_WEIGHTS), {f"mtp.{name}": array for name, array in arrays}, metadata={"format": "mlx"}
    )


def _one_layer_model(config: Mapping[str, Any], family: Family) -> Any:
    changed = one_layer_config(config, family)
    model_class, args_class = _get_classes(changed)
    arguments: Any = args_class
    model: Any = model_class(arguments.from_dict(changed))
    return model


def _files(folder: Path) -> Iterator[Path]:
    if (folder / MTP_WEIGHTS).is_file():
        yield folder / MTP_WEIGHTS
    else:
        yield from weight_files(folder).files


def _found(folder: Path, family: Family, layers: int, alone: bool) -> Weights:
    arrays: dict[str, mx.array] = {}
    raw = False
    for file in _files(folder):
        read: Any = mx.load(str(file), return_metadata=True)
        for name, array in read[0].items():
            own = family.own_name(name, layers)
            if own is None and alone:
                own = family.own_name(f"mtp.{name}", layers)
            if own is not None:
                arrays[own] = array
                raw = raw or read[1].get("format") != "mlx"
    return Weights(arrays, raw)


def _filled(
    found: Weights, family: Family, config: Mapping[str, Any], quantization: Mapping[str, Any], model: Any
) -> MTPHead:
    arrays = {}
    for name, array in found.arrays.items():
        centred = found.raw and family.zero_centred and array.ndim == 1 and is_norm(name)
        arrays[name] = array + 1.0 if centred else array
    arrays = _sanitized(arrays, config, family)
    head = new_head(config, family, model)
    mode = str(quantization.get("mode", "affine"))

    def settings(path: str, module: Module) -> bool | dict[str, Any]:
        if f"{path}.scales" not in arrays or not hasattr(module, "to_quantized"):
            return False
        inputs, scales = module["weight"].shape[-1], arrays[f"{path}.scales"]
        return {
            "bits": arrays[f"{path}.weight"].shape[-1] * 32 // inputs,
            "group_size": inputs // scales.shape[-1],
            "mode": "affine" if f"{path}.biases" in arrays else mode,
        }

    nn.quantize(head, class_predicate=settings)
    _check(head, arrays)
    head.load_weights(list(arrays.items()))
    head.eval()
    return head


def _sanitized(arrays: dict[str, mx.array], config: Mapping[str, Any], family: Family) -> dict[str, mx.array]:
    """The weights as mlx-lm's modules have them: experts in one array, latents in two, and the like.

    The matrices go through the family's own function as those of a model with one layer. Vectors stay as they are,
    since some of these functions shift norms, by what they find beside them.
    """
    vectors = {name: array for name, array in arrays.items() if array.ndim < 2}
    matrices = {f"{_MODEL_LAYER}{name.removeprefix(LAYER)}": a for name, a in arrays.items() if a.ndim >= 2}
    model = _one_layer_model(config, family)
    if hasattr(model, "sanitize"):
        matrices = model.sanitize(matrices)
    found = {}
    for name, array in matrices.items():
        own = name[name.index(_MODEL_LAYER) + len(_MODEL_LAYER) :]
        found[own if own.startswith("fc.") else f"{LAYER}{own}"] = array
    return {**vectors, **found}


def _check(head: MTPHead, arrays: Mapping[str, mx.array]) -> None:
    """See that every weight is there and fits.

    Raises:
        ModelError: one is not; it names the first ones.
    """
    parameters: Any = tree_flatten(head.parameters())
    wanted = {name: array.shape for name, array in parameters}
    wrong = [f"it lacks {name}" for name in wanted if name not in arrays]
    wrong += [
        f"{name} has the shape {list(arrays[name].shape)} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in arrays and arrays[name].shape != shape
    ]
    wrong += [f"{name} belongs to nothing" for name in arrays if name not in wanted]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ModelError(f"{'; '.join(wrong[:_SHOWN])}{more}")
