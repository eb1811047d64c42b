"""From a GGUF file to a folder that mlx-lm reads, in the user's cache: made once, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from helix_mlx.errors import ModelError
from helix_mlx.files import cache_folder, folder_beside, locked
from helix_mlx.kernels.device import on_cpu
from helix_mlx.models.files import INDEX, WHOLE, check_room, holds_model, writing
from helix_mlx.models.gguf.architecture import ROPE_FACTORS, Architecture, architecture_of, config_of
from helix_mlx.models.gguf.file import GgufFile, gguf_parts, read_gguf
from helix_mlx.models.gguf.quantization import (
    GROUP,
    float_array,
    is_exact,
    is_float,
    mlx_bytes,
    quantized_matrix,
)
from helix_mlx.models.gguf.tokenizer import write_tokenizer
from helix_mlx.models.third_party import guarded
from helix_mlx.types import Notice

FROM_GGUF = "helix_gguf"
"""Marks the config.json of a model that was made from a GGUF file."""
VERSION = 1
"""Of what is written: another one is not read."""
SHARD_BYTES = 2 << 30
"""The most that memory holds of a model while it is converted, and a file of weights."""
_HEAD_BYTES = 1 << 20
"""Of a file: its metadata, or most of it."""
_SAMPLING = {"temp": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p"}
"""What newer files say of sampling, and its names in a generation_config.json."""


def gguf_folder(path: Path, notice: Notice | None = None) -> Path:
    """The folder for MLX that a GGUF file has been converted to; the first time, it is converted.

    Args:
        path: a GGUF file, or any part of a split one.
        notice: is told of weights that do not stay what they are.

    Raises:
        ModelError: the file is damaged, incomplete or of a kind that Helix does not know, or there is no room for it.
    """
    parts = gguf_parts(path)
    folder = cache_folder("gguf") / f"{parts[0].stem[:80]}-{_fingerprint(parts)}"
    if not holds_model(folder):
        convert_gguf(parts, folder, notice)
    return folder


def convert_gguf(parts: Sequence[Path], folder: Path, notice: Notice | None = None) -> None:
    """Write a model into a folder, which appears when it is whole.

    Args:
        parts: the file, or all parts of it.
        folder: where to; whatever is there goes. Where another process is at it, it is waited for.
        notice: as for `gguf_folder`.

    Raises:
        ModelError: as `gguf_folder`.
    """
    file = read_gguf(parts)
    with writing(folder), locked(folder):
        if holds_model(folder):
            return
        with folder_beside(folder, replace=True) as beside:
            _write(file, beside, notice)


def _fingerprint(parts: Sequence[Path]) -> str:
    """A name for the contents of files, without reading all of them."""
    found = hashlib.sha256(f"{VERSION} {on_cpu()}".encode())
    for part in parts:
        stat = part.stat()
        found.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
        with part.open("rb") as file:
            found.update(file.read(_HEAD_BYTES))
    return found.hexdigest()[:16]


def _write(file: GgufFile, folder: Path, notice: Notice | None) -> None:
    known, config = architecture_of(file), config_of(file)
    names = _names(file, known)
    check_room(folder, sum(mlx_bytes(file.tensors[name]) for name in names), f"{file.path.name} in MLX's format")
    kinds = {tensor.tensor_type.name for tensor in file.tensors.values()}
    again = sorted(kind for kind in kinds if not is_exact(kind))
    ends = write_tokenizer(file, folder)
    bits = _write_weights(file, folder, known, config, names)
    if again and notice is not None:
        notice(
            f"{file.path.name}: weights in {', '.join(again)} have no counterpart in MLX and were quantised again; "
            "answers may differ slightly from llama.cpp's."
        )
    if bits:
        config["quantization"] = {"group_size": GROUP, "bits": 4, "mode": "affine"}
        config["quantization"] |= {
            name: {"group_size": GROUP, "bits": each} for name, each in bits.items() if each != 4
        }
    config |= {"eos_token_id": ends, "bos_token_id": file.optional("tokenizer.ggml.bos_token_id", int)}
    config[FROM_GGUF] = True
    _write_json(folder / "generation_config.json", {"eos_token_id": ends, **_sampling(file)})
    _write_json(folder / "config.json", config)


def _names(file: GgufFile, known: Architecture) -> dict[str, str]:
    """The tensors of a file, and their names in mlx-lm.

    Raises:
        ModelError: one has no place in the model.
    """
    names = {name: known.name(name) for name in file.tensors if name != ROPE_FACTORS}
    unknown = [name for name, new in names.items() if new is None]
    if unknown:
        raise ModelError(
            f"{file.path} has weights that Helix does not know ({', '.join(unknown[:3])}); "
            "choose an MLX version of the model"
        )
    return {name: new for name, new in names.items() if new is not None}


def _write_weights(
    file: GgufFile, folder: Path, known: Architecture, config: dict[str, Any], names: dict[str, str]
) -> dict[str, int]:
    """Write the weights; return the bits of each layer that is quantised."""
    bits: dict[str, int] = {}
    shards: list[dict[str, mx.array]] = [{}]
    places: dict[str, int] = {}
    held = 0
    for name, new in names.items():
        arrays = _arrays(file, name, new, known, config, bits)
        size = sum(array.nbytes for array in arrays.values())
        if held and held + size > SHARD_BYTES:
            _save(folder / _shard(len(shards)), shards[-1])
            shards[-1] = {}
            shards.append({})
            held = 0
        shards[-1] |= arrays
        places |= dict.fromkeys(arrays, len(shards))
        held += size
    if len(shards) == 1:
        _save(folder / WHOLE, shards[0])
    else:
        _save(folder / _shard(len(shards)), shards[-1])
        _write_json(folder / INDEX, {"weight_map": {name: _shard(number) for name, number in places.items()}})
    return bits


def _arrays(
    file: GgufFile, name: str, new: str, known: Architecture, config: dict[str, Any], bits: dict[str, int]
) -> dict[str, mx.array]:
    """MLX's arrays of a tensor, by name; the bits of a quantised one are added to `bits`."""
    tensor = file.tensors[name]
    with guarded(f"cannot read {name} of {file.path}", "download the model again"):
        rows = known.row_order(name, config)
        if rows is not None and len(rows) != int(tensor.shape[-1]):
            raise ModelError(f"{name} of {file.path} does not fit its heads; download another version of the model")
        if is_float(tensor.tensor_type.name):
            array = float_array(tensor, rows)
            if known.norm_offset and new.endswith("norm.weight"):
                array = array.astype(mx.float32) - known.norm_offset
            return {new: array}
        # Helix's kernels for a CPU know 4 and 8 bits, and MLX's own are many times slower there.
        matrix, layer = quantized_matrix(tensor, rows, whole_bytes=on_cpu()), new.removesuffix(".weight")
    bits[layer] = matrix.bits
    return {new: matrix.weight, f"{layer}.scales": matrix.scales, f"{layer}.biases": matrix.biases}


def _shard(number: int) -> str:
    return f"model-part{number:05d}.safetensors"


def _save(path: Path, arrays: dict[str, mx.array]) -> None:
    try:
        mx.save_safetensors(str(path), arrays, metadata={"format": "mlx"})
    except RuntimeError as error:  # MLX's own, for whatever goes wrong in writing
        raise OSError(None, f"{path.name} could not be written") from error


def _sampling(file: GgufFile) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, new in _SAMPLING.items():
        kind: type[Any] = int if name == "top_k" else float
        if (value := file.optional(f"general.sampling.{name}", kind)) is not None:
            found[new] = value if kind is int else round(value, 6)
    return found


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
