"""The tensors of GGUF files as MLX's quantised matrices.

Most types of GGUF have a scale, and some a minimum, for groups of 32 weights: `weight = scale * code + minimum`, which
is just what MLX's affine mode computes. Their codes are packed anew, and nothing is lost. The others are computed and
quantised again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

GROUP = 32
"""Weights that share a scale."""
_CHUNK = 1 << 22
"""Weights that are worked on at a time: some of the steps take many bytes for each."""
_HALF_BYTE = np.uint8(4)
_Bytes = NDArray[np.uint8]
_Floats = NDArray[np.float32]
_Groups = tuple[_Bytes, _Floats, _Floats]
"""Codes `[N, 32 * g]`, and scales and minima `[N, g]` of N blocks with g groups each."""


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix in MLX's affine mode, in groups of 32.

    Args:
        weight: codes, packed, `[N, K * bits / 32]` uint32.
        scales, biases: `[N, K / 32]` float16, or float32 where that would lose something.
        bits: of a code.
    """

    weight: mx.array
    scales: mx.array
    biases: mx.array
    bits: int


def _q4_0(blocks: _Bytes) -> _Groups:
    scales = _half(blocks, 0)
    return _nibbles(blocks[:, 2:]), scales, -8 * scales


def _q4_1(blocks: _Bytes) -> _Groups:
    return _nibbles(blocks[:, 4:]), _half(blocks, 0), _half(blocks, 2)


def _q5_0(blocks: _Bytes) -> _Groups:
    scales = _half(blocks, 0)
    return _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6]), scales, -16 * scales


def _q5_1(blocks: _Bytes) -> _Groups:
    return _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8]), _half(blocks, 0), _half(blocks, 2)


def _q8_0(blocks: _Bytes) -> _Groups:
    scales = _half(blocks, 0)
    return blocks[:, 2:] ^ np.uint8(0x80), scales, -128 * scales  # a signed byte, plus 128


def _q4_k(blocks: _Bytes) -> _Groups:
    """Eight groups of 32, whose scales and minima have six bits and two factors in common."""
    scales, minima = _k_scales(blocks)
    return _nibbles(blocks[:, 16:].reshape(-1, 32)).reshape(-1, 256), scales, minima


def _q5_k(blocks: _Bytes) -> _Groups:
    """As Q4_K; bit i of 32 bytes is the fifth bit of group i."""
    scales, minima = _k_scales(blocks)
    codes = _nibbles(blocks[:, 48:].reshape(-1, 32)).reshape(-1, 8, 32)
    fifth = (blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[None, :, None]) & np.uint8(1)
    return (codes | fifth << _HALF_BYTE).reshape(-1, 256), scales, minima


_AS_THEY_ARE: Mapping[str, tuple[int, Callable[[_Bytes], _Groups]]] = {
    "Q4_0": (4, _q4_0),
    "Q4_1": (4, _q4_1),
    "Q5_0": (5, _q5_0),
    "Q5_1": (5, _q5_1),
    "Q8_0": (8, _q8_0),
    "Q4_K": (4, _q4_k),
    "Q5_K": (5, _q5_k),
}
"""The types that lose nothing: the bits of a code, and how a block is read."""
_FLOATS = ("F32", "F16", "BF16")
_AGAIN = ("Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4")
"""Types with about as much in them as 8 bits can keep in MLX's groups. The others get 4, their own being fewer."""


def is_float(kind: str) -> bool:
    """Whether weights of a type are not quantised."""
    return kind in _FLOATS


def is_exact(kind: str) -> bool:
    """Whether weights of a type stay what they are."""
    return kind in _FLOATS or kind in _AS_THEY_ARE


def mlx_bytes(tensor: Any) -> int:
    """Bytes that a tensor takes at most when it is MLX's."""
    kind, count = tensor.tensor_type.name, int(tensor.n_elements)
    if is_float(kind):
        return int(tensor.n_bytes)
    bits = _AS_THEY_ARE[kind][0] if kind in _AS_THEY_ARE else _bits_again(kind)
    return count * (4 if bits == 4 else 8) // 8 + count // GROUP * (8 if kind.endswith("_K") else 4)


def float_array(tensor: Any, rows: NDArray[np.intp] | None = None) -> mx.array:
    """A tensor of floats, in its own precision.

    Args:
        tensor: as the reader has it.
        rows: the order its rows are to have; None leaves them.
    """
    data = np.asarray(tensor.data)
    data = data if rows is None else data[rows]
    if tensor.tensor_type.name == "BF16":
        return mx.array(np.ascontiguousarray(data).view(np.uint16)).view(mx.bfloat16)
    return mx.array(data)


def quantized_matrix(
    tensor: Any, rows: NDArray[np.intp] | None = None, *, whole_bytes: bool = False
) -> QuantizedMatrix:
    """A quantised tensor as MLX's; see `is_exact`.

    Args:
        tensor: as the reader has it, a matrix `[N, K]`.
        rows: the order its rows are to have; None leaves them.
        whole_bytes: whether a code of 5 bits takes 8, for devices that are slow to take such codes apart.
    """
    kind, data = tensor.tensor_type.name, np.asarray(tensor.data)
    data = data if rows is None else data[rows]
    columns = int(tensor.shape[0])
    if kind not in _AS_THEY_ARE:
        return _quantized_again(tensor.tensor_type, data, columns)
    bits, read = _AS_THEY_ARE[kind]
    bits = 8 if whole_bytes and bits > 4 else bits
    block = 256 if kind.endswith("_K") else GROUP
    weights, scales, minima = [], [], []
    step = max(1, _CHUNK // columns)
    for first in range(0, len(data), step):
        part = data[first : first + step]
        codes, scale, minimum = read(np.ascontiguousarray(part).reshape(len(part) * (columns // block), -1))
        weights.append(_packed(codes.reshape(len(part), columns), bits))
        scales.append(scale.reshape(len(part), -1))
        minima.append(minimum.reshape(len(part), -1))
    scale, minimum = _halved(np.concatenate(scales), np.concatenate(minima))
    return QuantizedMatrix(mx.array(np.concatenate(weights)), mx.array(scale), mx.array(minimum), bits)


def _quantized_again(kind: Any, data: _Bytes, columns: int) -> QuantizedMatrix:
    from gguf.quants import dequantize

    bits, step = _bits_again(kind.name), max(1, _CHUNK // columns)
    parts = []
    for first in range(0, len(data), step):
        weights = mx.array(dequantize(np.ascontiguousarray(data[first : first + step]), kind))
        parts.append(mx.quantize(weights.astype(mx.float32), group_size=GROUP, bits=bits))
        mx.eval(parts[-1])
    weight, scales, biases = (mx.concatenate(list(each)) for each in zip(*parts, strict=True))
    return QuantizedMatrix(weight, scales.astype(mx.float16), biases.astype(mx.float16), bits)


def _bits_again(kind: str) -> int:
    return 8 if kind in _AGAIN else 4


def _half(blocks: _Bytes, at: int) -> _Floats:
    """The float16 at a place in each block, `[N, 1]`."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def _nibbles(data: _Bytes) -> _Bytes:
    """The lower halves of a block's bytes, and then the upper ones."""
    return np.concatenate([data & np.uint8(0x0F), data >> _HALF_BYTE], axis=1)


def _fifth_bits(data: _Bytes) -> _Bytes:
    """32 bits of each block, as the fifth bits of its codes."""
    return np.unpackbits(data, axis=1, bitorder="little") << _HALF_BYTE


def _k_scales(blocks: _Bytes) -> tuple[_Floats, _Floats]:
    """Scales and minima `[N, 8]` of a block of 256, from two factors and 12 bytes that hold 16 numbers of six bits."""
    scale, minimum, both = np.split(blocks[:, 4:16], 3, axis=1)
    scales = np.concatenate([scale & 0x3F, (both & 0x0F) | (scale >> 2 & 0x30)], axis=1)
    minima = np.concatenate([minimum & 0x3F, (both >> 4) | (minimum >> 2 & 0x30)], axis=1)
    return _half(blocks, 0) * scales, -_half(blocks, 2) * minima


def _packed(codes: _Bytes, bits: int) -> NDArray[np.uint32]:
    """Codes `[N, K]` side by side, the first one in the lowest bits, as MLX packs them."""
    if bits == 4:
        codes = codes[:, 0::2] | codes[:, 1::2] << _HALF_BYTE
    elif bits != 8:
        single = np.unpackbits(codes[..., None], axis=-1, bitorder="little")[..., :bits]
        codes = np.packbits(single.reshape(len(codes), -1), axis=-1, bitorder="little")
    return np.ascontiguousarray(codes).view(np.uint32)


def _halved(scales: _Floats, minima: _Floats) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both in float16, if both are the same in it."""
    with np.errstate(over="ignore"):
        halves = scales.astype(np.float16), minima.astype(np.float16)
    same = np.array_equal(halves[0], scales) and np.array_equal(halves[1], minima)
    return halves if same else (scales, minima)
