"""Turns a float checkpoint in the Hugging Face layout into a quantised MLX one, with mlx-lm's own functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from helix_mlx.errors import HelixError, ModelError
from helix_mlx.files import folder_beside
from helix_mlx.models.files import copy_others
from helix_mlx.models.third_party import guarded

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
        raise HelixError(f"{destination} already exists: remove it first, or choose another destination.")
    try:
        with folder_beside(destination) as beside:
            _write_quantised(source, beside, {"bits": bits, "group_size": group_size, "mode": mode})
    except OSError as error:
        raise HelixError(f"Cannot write {destination}: {error.strerror or error}.") from error


def _write_quantised(source: Path, folder: Path, settings: dict[str, Any]) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm import utils

    from helix_mlx.models.loader import read_model

    with guarded(f"Cannot quantise {source}", "fetch it again"):
        model, config = read_model(source)
        if config.get("quantization") or config.get("quantization_config"):
            raise ModelError(f"{source} is quantised already: start from the float checkpoint.")
        arrays = cast("list[tuple[str, mx.array]]", tree_flatten(model.parameters()))
        if any(value.dtype == mx.float32 for _, value in arrays):
            model.set_dtype(mx.float16)
        model, config = utils.quantize_model(model, config, **settings)
        utils.save_model(folder, model)  # MLX is lazy: a damaged weight shows here
    utils.save_config(config, folder / "config.json")
    copy_others(source, folder)
