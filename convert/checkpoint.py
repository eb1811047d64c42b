"""One model from the Hugging Face layout to MLX: quantised array by array, so that memory never holds it whole."""

from __future__ import annotations

import contextlib
import errno
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_map_with_path
from mlx_lm import utils
from mlx_lm.convert import mixed_quant_predicate_builder

from helix_mlx.convert.recipe import Recipe, dtype_of
from helix_mlx.errors import HelixError, ModelError
from helix_mlx.models.files import check_room, copy_others
from helix_mlx.models.loader import read_model
from helix_mlx.models.mtp.weights import read_head, save_head
from helix_mlx.models.third_party import guarded
from helix_mlx.types import Notice, Progress

SHARD_BYTES = 5 << 30
"""The most that one file of weights holds, and that memory holds of them, as in mlx-lm."""
AHEAD = 6
"""Arrays under way at once: a quantised weight, its scales and its biases, and those of the next one."""


def convert_checkpoint(
    source: Path, destination: Path, recipe: Recipe, *, trust_remote_code: bool, line: Notice, progress: Progress
) -> dict[str, Any] | None:
    """Write a model into a new folder, with mlx-lm's own classes, names and numbers.

    Args:
        source: a folder in the Hugging Face layout, or of an MLX model.
        destination: does not exist yet.
        recipe: what is done to the weights. Those of a model that is quantised already are taken as they are, unless
            it says `again`.
        trust_remote_code: run a model's own code.
        line: is told where the recipe is not followed, as the weights are quantised already.
        progress: is told arrays done and in all.

    Returns:
        The quantisation as its config.json has it; None where there is none.

    Raises:
        HelixError: the weights are damaged or do not fit the model or the recipe, or the disk has no room for them.
    """
    destination.mkdir(parents=True)
    with guarded(f"cannot convert {source}", "download the model again"), _writing(destination):
        model, config = _prepared(source, recipe, trust_remote_code, line)
        _save_head(source, destination, model, config, recipe, line)
        _save(model, destination, progress)
    keep_vision = "vision_tower" in getattr(model, "model", {})
    utils.save_config(config, destination / "config.json", keep_vision_config=keep_vision)
    copy_others(source, destination, *(("*.py",) if trust_remote_code else ()))
    return quantization_of(config)


def quantization_of(config: dict[str, Any]) -> dict[str, Any] | None:
    """Group size, bits and mode, as far as a config.json tells them; None where weights are not quantised."""
    found = config.get("quantization")
    return None if found is None else {key: found[key] for key in ("group_size", "bits", "mode") if key in found}


def _prepared(source: Path, recipe: Recipe, trust_remote_code: bool, line: Notice) -> tuple[Any, dict[str, Any]]:
    """The model with its weights still to be computed, and its configuration; nothing is in memory yet."""
    model: Any
    model, config = read_model(source, trust_remote_code=trust_remote_code, notice=line)
    quantised = config.get("quantization")
    if quantised and not recipe.again and recipe.mode != "float":
        how = f"bits {quantised['bits']}, mode {quantised.get('mode', 'affine')}"
        line(f"{source} is already quantised ({how}) and copied as is; --requantize quantises it again.")
        return model, config
    if quantised:
        config.pop("quantization", None)
        config.pop("quantization_config", None)
        model = utils.dequantize_model(model)
    _cast(model, model, recipe, config)
    if recipe.mode == "float":
        return model, config
    settings = recipe.settings
    predicate = None
    if recipe.mixed is not None:
        predicate = mixed_quant_predicate_builder(recipe.mixed, model, settings["group_size"])
    with contextlib.redirect_stdout(io.StringIO()):  # mlx-lm tells the bits per weight
        model, config = utils.quantize_model(model, config, **settings, quant_predicate=predicate)  # type: ignore[arg-type]
    if not any(path.endswith("scales") for path, _ in _arrays(model)):
        raise HelixError(
            f"no layer of {source} divides into groups of {settings['group_size']}; use a smaller --group-size"
        )
    return model, config


def _cast(module: Any, model: Any, recipe: Recipe, config: dict[str, Any]) -> None:
    """Give a model, or a part of it, the type of the recipe, except for what the model wants otherwise."""
    if (dtype := dtype_of(recipe, config)) is not None:
        castable = getattr(model, "cast_predicate", lambda _: True)

        def cast(path: str, array: Any) -> Any:
            return array.astype(dtype) if castable(path) and mx.issubdtype(array.dtype, mx.floating) else array

        module.update(tree_map_with_path(cast, module.parameters()))


def _save_head(
    source: Path, destination: Path, model: Any, config: dict[str, Any], recipe: Recipe, line: Notice
) -> None:
    """Keep the target's multi-token-prediction head, which mlx-lm drops, with weights like the target's."""
    try:
        head: Any = read_head(source, config, model)
    except ModelError as error:
        line(f"{source} has a damaged multi-token-prediction head, which is left out: {error}")
        return
    if head is None:
        return
    quantised = any(path.endswith("scales") for path, _ in _arrays(head))
    if quantised and (recipe.again or recipe.mode == "float"):
        head = utils.dequantize_model(head)
        quantised = False
    _cast(head, model, recipe, config)
    if recipe.mode != "float" and not quantised:
        settings = quantization_of(config) or recipe.settings
        own: Any = getattr(model, "quant_predicate", None) or (lambda *_: True)

        def chosen(path: str, module: Any) -> Any:
            fits = hasattr(module, "to_quantized") and module.weight.shape[-1] % settings["group_size"] == 0
            return own(path, module) if fits else False

        nn.quantize(head, **settings, class_predicate=chosen)
    save_head(head, destination)


def _arrays(model: Any) -> list[tuple[str, mx.array]]:
    found: Any = tree_flatten(model.parameters())
    return found


def _save(model: Any, folder: Path, progress: Progress) -> None:
    """Write the weights file by file, computing them one after the other."""
    weights = dict(_arrays(model))
    total_bytes, count = sum(array.nbytes for array in weights.values()), len(weights)
    parameters = utils.get_total_parameters(model)
    check_room(folder, total_bytes, "the converted model")
    shards = _shards(weights)
    model.update(tree_map(lambda _: mx.array([]), model.parameters()))
    weights.clear()
    index, done = {}, 0
    for number in range(len(shards)):
        shard, shards[number] = shards[number], {}
        name = "model.safetensors" if len(shards) == 1 else f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        arrays = list(shard.values())
        for place, path in enumerate(shard):
            # One after the other, so that what it was made of is freed; meanwhile the next ones are read.
            mx.async_eval(arrays[place : place + AHEAD])
            mx.eval(arrays[place])
            index[path] = name
            done += 1
            progress(done, count)
        mx.save_safetensors(str(folder / name), shard, metadata={"format": "mlx"})
        del shard, arrays
        mx.clear_cache()
    data = {
        "metadata": {"total_size": total_bytes, "total_parameters": parameters},
        "weight_map": dict(sorted(index.items())),
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(data, indent=4), encoding="utf-8")


def _shards(weights: dict[str, mx.array]) -> list[dict[str, mx.array]]:
    """The arrays in their order, as many to a file as it may hold."""
    shards: list[dict[str, mx.array]] = [{}]
    size = 0
    for path, array in weights.items():
        if shards[-1] and size + array.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][path] = array
        size += array.nbytes
    return shards


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What cannot be written in the body is no fault of what is read there."""
    try:
        yield
    except OSError as error:
        raise _unwritten(folder, error) from error
    except RuntimeError as error:
        if "No space left" not in str(error) and "Unable to write" not in str(error):
            raise
        raise _unwritten(folder, OSError(errno.ENOSPC, "the disk is full")) from error


def _unwritten(folder: Path, error: OSError) -> HelixError:
    if error.errno == errno.ENOSPC:
        return ModelError(f"the disk of {folder.parent} is full; free some space, or choose another --out")
    return ModelError(f"cannot write {folder}: {error.strerror or error}; choose another --out")
