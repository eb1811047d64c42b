"""Turns a float checkpoint in the Hugging Face layout into a quantised MLX one, with mlx-lm's own functions."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from helix_mlx.errors import HelixError, ModelError

# What a tokenizer may consist of. Copied byte for byte: saving it again through transformers would rewrite it.
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt")
OTHER_FILES = ("chat_template*", "generation_config.json")

MODES = ("affine", "mxfp4", "mxfp8", "nvfp4")


def quantize_checkpoint(
    source: Path, destination: Path, *, bits: int = 4, group_size: int = 64, mode: str = "affine"
) -> None:
    """Quantises the model in ``source`` into the new folder ``destination``.

    Weights of float32 are rounded to float16 first, so scales, biases and norms are saved in 16 bits. The folder is
    written beside its destination and renamed when it is whole.

    Raises:
        HelixError: the source is no readable model, the destination exists, or the numbers do not fit the model.
    """
    if not (source / "config.json").is_file():
        raise ModelError(f"{source} has no config.json: give a folder with a model in the Hugging Face layout.")
    if mode not in MODES:
        raise HelixError(f"There is no quantisation mode {mode!r}: choose one of {', '.join(MODES)}.")
    if destination.exists():
        raise HelixError(f"{destination} exists already: remove it first, or choose another destination.")
    beside = destination.with_name(destination.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.parent.mkdir(parents=True, exist_ok=True)
    try:
        beside.mkdir()
        _write_quantised(source, beside, {"bits": bits, "group_size": group_size, "mode": mode})
        beside.rename(destination)
    except OSError as error:
        raise HelixError(f"Cannot write {destination}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_quantised(source: Path, folder: Path, settings: dict[str, Any]) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm import utils

    load: Callable[..., tuple[Any, dict[str, Any]]] = utils.load_model
    try:
        model, config = load(source, lazy=True)
        if config.get("quantization") or config.get("quantization_config"):
            raise ModelError(f"{source} is quantised already: start from the float checkpoint.")
        arrays = cast("list[tuple[str, mx.array]]", tree_flatten(model.parameters()))
        if any(value.dtype == mx.float32 for _, value in arrays):
            model.set_dtype(mx.float16)
        model, config = utils.quantize_model(model, config, **settings)
        utils.save_model(folder, model)  # MLX is lazy: a damaged weight shows here
    except (ValueError, KeyError, TypeError, RuntimeError, FileNotFoundError) as error:
        raise ModelError(f"Cannot quantise {source}: {error}") from error
    utils.save_config(config, folder / "config.json")
    for pattern in (*TOKENIZER_FILES, *OTHER_FILES):
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)
