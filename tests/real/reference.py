"""The forward pass of a GGUF file in numpy, from the weights that the gguf package reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_GLOBAL_EVERY = 6
"""Of Gemma 3's layers, those that see all positions."""


class Reference:
    """A llama or gemma3 file.

    Args:
        path: the file; its head is tied to its embedding.
        instead: gives the weights that are to take the place of a tensor's, by its name, or None.
    """

    def __init__(self, path: Path, instead: Callable[[str], Floats | None]) -> None:
        self._instead = instead
        reader = GGUFReader(path)
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._fields: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items() if "." in name}
        self._gemma = self._fields["general.architecture"] == "gemma3"

    def logits(self, tokens: list[int]) -> Floats:
        """What the model says to a text, `[L, V]`, float32."""
        embedding = self._weight("token_embd")
        x = embedding[tokens]
        if self._gemma:
            # In bfloat16, as Gemma's own code and mlx-lm have it; llama.cpp does not round this factor.
            x = x * np.array(mx.array(x.shape[-1] ** 0.5, mx.bfloat16).astype(mx.float32))
        for layer in range(self._get("block_count")):
            at = f"blk.{layer}"
            y = self._attention(layer, self._norm(f"{at}.attn_norm", x))
            x = x + (self._norm(f"{at}.post_attention_norm", y) if self._gemma else y)
            y = self._norm(f"{at}.ffn_norm", x)
            gate, up = y @ self._weight(f"{at}.ffn_gate").T, y @ self._weight(f"{at}.ffn_up").T
            y = ((_gelu(gate) if self._gemma else gate / (1 + np.exp(-gate))) * up) @ self._weight(f"{at}.ffn_down").T
            x = x + (self._norm(f"{at}.post_ffw_norm", y) if self._gemma else y)
        found: Floats = self._norm("output_norm", x) @ embedding.T
        return found

    def _get(self, name: str, default: Any = None) -> Any:
        found = self._fields.get(f"{self._fields['general.architecture']}.{name}", default)
        assert found is not None, name
        return found

    def _weight(self, name: str) -> Floats:
        tensor = self._tensors[f"{name}.weight"]
        if (other := self._instead(tensor.name)) is not None:
            return other
        found: Floats = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        return found

    def _norm(self, name: str, x: Floats) -> Floats:
        epsilon = np.float32(self._get("attention.layer_norm_rms_epsilon"))
        found: Floats = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon) * self._weight(name)
        return found

    def _attention(self, layer: int, x: Floats) -> Floats:
        at, length = f"blk.{layer}", len(x)
        count, shared = self._get("attention.head_count"), self._get("attention.head_count_kv")
        theta = self._get("rope.freq_base", 10_000.0)
        if self._gemma and (layer + 1) % _GLOBAL_EVERY:
            theta = 10_000.0
            assert length <= self._get("attention.sliding_window"), "windows are not computed here"
        heads = []
        for name, many in (("attn_q", count), ("attn_k", shared), ("attn_v", shared)):
            y = (x @ self._weight(f"{at}.{name}").T).reshape(length, many, -1)
            if self._gemma and name != "attn_v":
                y = self._norm(f"{at}.{name}_norm", y)
            heads.append(y if name == "attn_v" else _turned(y, theta, neighbours=not self._gemma))
        queries, keys, values = heads[0], *(np.repeat(each, count // shared, axis=1) for each in heads[1:])
        scores = np.einsum("qhd,khd->hqk", queries, keys) * np.float32(queries.shape[-1] ** -0.5)
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", shares, values).reshape(length, -1)
        found: Floats = mixed.astype(np.float32) @ self._weight(f"{at}.attn_output").T
        return found


def _turned(x: Floats, theta: float, neighbours: bool) -> Floats:
    """A rope: llama turns neighbours together, gemma the two halves of a head."""
    size = x.shape[-1]
    turn = np.exp(1j * np.arange(len(x))[:, None] / theta ** (np.arange(0, size, 2) / size))[:, None, :]
    first, second = (x[..., 0::2], x[..., 1::2]) if neighbours else (x[..., : size // 2], x[..., size // 2 :])
    turned = (first + 1j * second) * turn
    parts = [turned.real, turned.imag]
    found = np.stack(parts, axis=-1).reshape(x.shape) if neighbours else np.concatenate(parts, axis=-1)
    return found.astype(np.float32)


def _gelu(x: Floats) -> Floats:
    found: Floats = 0.5 * x * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + 0.044715 * x**3)))
    return found
