"""Tiny GGUF files of every architecture and type of weights, and what their models say by plain arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import dequantize
from numpy.typing import NDArray
from tokenizers import pre_tokenizers

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, WIDE, LAYERS = 256, 4, 2, 64, 512, 2
WINDOW = 4
THETA, LOCAL_THETA = 10_000.0, 1000.0
EPSILON = 1e-5
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "1 2"]
SPECIAL = ["<|end|>", "<|start|>"]
TEMPLATE = "{% for m in messages %}<|start|>{{ m.role }} {{ m.content }}<|end|>{% endfor %}<|start|>assistant "
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = [*SPECIAL, *ALPHABET, *("".join(merge.split(" ")) for merge in MERGES)]
VOCAB = len(TOKENS)
_HALVES: Mapping[str, tuple[int, ...]] = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q4_K": (0, 2), "Q5_K": (0, 2),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip
"""Where a block has its scale and its minimum in float16; all other bytes may be anything."""
_SCALES = {"Q8_0": 4e-4, "Q4_K": 1e-4, "Q5_K": 5e-5, "Q6_K": 2e-5, "Q3_K": 4e-4, "Q2_K": 2e-3, "IQ4_XS": 2e-5}
_MINIMA = {"Q4_1": -0.05, "Q5_1": -0.05, "Q4_K": 1e-3, "Q5_K": 1e-3, "Q2_K": 3e-3}
Floats = NDArray[np.float64]


def random_matrix(kind: str, rows: int, columns: int, generator: np.random.Generator) -> NDArray[Any]:
    """A matrix as it stands in a file of that type: random codes, and scales of a sensible size."""
    if kind in ("F32", "F16", "BF16"):
        plain = generator.normal(0, 0.05, (rows, columns)).astype(np.float32)
        bits = (plain.view(np.uint32) >> 16).astype(np.uint16)
        floats: dict[str, NDArray[Any]] = {"F32": plain, "F16": plain.astype(np.float16), "BF16": bits.view(np.uint8)}
        return floats[kind]
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    data = generator.integers(0, 256, (rows * columns // block, size), dtype=np.uint8)
    sizes = _SCALES.get(kind, 5e-3), _MINIMA.get(kind, 0.0)
    for at, middle in zip(_HALVES[kind], sizes, strict=False):
        halves = (middle * generator.uniform(0.5, 1.5, len(data))).astype(np.float16)
        data[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
    return data.reshape(rows, -1)


class TinyGguf:
    """A model of which a GGUF file is written: its tensors as they stand in it.

    Args:
        architecture: GGUF's name of it.
        kind: the type of all matrices.
        tied: whether it has no head of its own.
    """

    def __init__(self, architecture: str = "llama", kind: str = "F32", *, tied: bool = False) -> None:
        self.architecture, self.kind = architecture, kind
        generator = np.random.default_rng(5)
        shapes = {"attn_q": (HEADS * HEAD_DIM, HIDDEN), "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN)}
        shapes |= {"attn_v": (KV_HEADS * HEAD_DIM, HIDDEN), "attn_output": (HIDDEN, HEADS * HEAD_DIM)}
        shapes |= {"ffn_gate": (WIDE, HIDDEN), "ffn_up": (WIDE, HIDDEN), "ffn_down": (HIDDEN, WIDE)}
        norms = ["attn_norm", "ffn_norm"]
        qk_norms = ["attn_q_norm", "attn_k_norm"] if architecture in ("qwen3", "gemma3") else []
        norms += ["post_attention_norm", "post_ffw_norm"] if architecture == "gemma3" else []
        self.matrices: dict[str, NDArray[Any]] = {"token_embd.weight": random_matrix(kind, VOCAB, HIDDEN, generator)}
        if not tied:
            self.matrices["output.weight"] = random_matrix(kind, VOCAB, HIDDEN, generator)
        self.vectors = {"output_norm.weight": generator.uniform(0.5, 1.5, HIDDEN).astype(np.float32)}
        for layer in range(LAYERS):
            for name, (rows, columns) in shapes.items():
                self.matrices[f"blk.{layer}.{name}.weight"] = random_matrix(kind, rows, columns, generator)
            for name in [*norms, *qk_norms]:
                size = HEAD_DIM if name in qk_norms else HIDDEN
                self.vectors[f"blk.{layer}.{name}.weight"] = generator.uniform(0.5, 1.5, size).astype(np.float32)
            for name in ("attn_q", "attn_k", "attn_v") if architecture == "qwen2" else ():
                bias = generator.normal(0, 0.5, shapes[name][0]).astype(np.float32)
                self.vectors[f"blk.{layer}.{name}.bias"] = bias

    def write(self, path: Path, change: Callable[[GGUFWriter], None] | None = None, **settings: Any) -> Path:
        """Write the file.

        Args:
            path: where to.
            change: does something to the writer before it writes.
            settings: what `put_tokenizer` takes; `vocabulary` is a function in its place.
        """
        writer = GGUFWriter(str(path), self.architecture)
        writer.add_block_count(LAYERS)
        writer.add_context_length(2048)
        writer.add_embedding_length(HIDDEN)
        writer.add_feed_forward_length(WIDE)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(KV_HEADS)
        writer.add_key_length(HEAD_DIM)
        writer.add_layer_norm_rms_eps(EPSILON)
        writer.add_rope_freq_base(THETA)
        if self.architecture == "gemma3":
            writer.add_sliding_window(WINDOW)
            writer.add_float32("gemma3.rope.freq_base_swa", LOCAL_THETA)
            writer.add_uint32("gemma3.attention.sliding_window_pattern", LAYERS)
        vocabulary = settings.pop("vocabulary", put_tokenizer)
        vocabulary(writer, **settings)
        for name, vector in self.vectors.items():
            writer.add_tensor(name, vector)
        for name, matrix in self.matrices.items():
            kind = None if self.kind in ("F32", "F16") else GGMLQuantizationType[self.kind]
            writer.add_tensor(name, matrix, raw_dtype=kind)
        if change is not None:
            change(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def matrix(self, name: str) -> Floats:
        """A matrix by the package's own arithmetic."""
        data = self.matrices[name]
        if self.kind in ("F32", "F16"):
            return data.astype(np.float64)
        return dequantize(data, GGMLQuantizationType[self.kind]).astype(np.float64)

    def logits(self, tokens: list[int]) -> Floats:
        """What the model says to a text, `[L, V]`, in float64 and as llama.cpp computes it, from the file's tensors."""
        gemma = self.architecture == "gemma3"
        embedding = self.matrix("token_embd.weight")
        x = embedding[tokens] * (HIDDEN**0.5 if gemma else 1.0)
        for layer in range(LAYERS):
            y = self._attention(layer, self._norm(f"blk.{layer}.attn_norm", x))
            x = x + (self._norm(f"blk.{layer}.post_attention_norm", y) if gemma else y)
            y = self._norm(f"blk.{layer}.ffn_norm", x)
            gate = y @ self.matrix(f"blk.{layer}.ffn_gate.weight").T
            up = y @ self.matrix(f"blk.{layer}.ffn_up.weight").T
            y = ((_gelu(gate) if gemma else _silu(gate)) * up) @ self.matrix(f"blk.{layer}.ffn_down.weight").T
            x = x + (self._norm(f"blk.{layer}.post_ffw_norm", y) if gemma else y)
        head = self.matrix("output.weight") if "output.weight" in self.matrices else embedding
        return self._norm("output_norm", x) @ head.T

    def _norm(self, name: str, x: Floats) -> Floats:
        weight = self.vectors[f"{name}.weight"].astype(np.float64)
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + EPSILON) * weight

    def _attention(self, layer: int, x: Floats) -> Floats:
        length = len(x)
        local = self.architecture == "gemma3" and layer + 1 < LAYERS
        heads = []
        for name, count in (("attn_q", HEADS), ("attn_k", KV_HEADS), ("attn_v", KV_HEADS)):
            y = x @ self.matrix(f"blk.{layer}.{name}.weight").T + self.vectors.get(f"blk.{layer}.{name}.bias", 0.0)
            y = y.reshape(length, count, HEAD_DIM)
            if f"blk.{layer}.{name}_norm.weight" in self.vectors:
                y = self._norm(f"blk.{layer}.{name}_norm", y)
            if name != "attn_v":
                y = _turned(y, LOCAL_THETA if local else THETA, interleaved=self.architecture == "llama")
            heads.append(y)
        queries, keys, values = heads[0], *(np.repeat(each, HEADS // KV_HEADS, axis=1) for each in heads[1:])
        scores = np.einsum("qhd,khd->hqk", queries, keys) * HEAD_DIM**-0.5
        apart = np.arange(length)[:, None] - np.arange(length)[None, :]
        scores = np.where((apart < 0) | (local & (apart >= WINDOW)), -np.inf, scores)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", shares, values).reshape(length, -1)
        return mixed @ self.matrix(f"blk.{layer}.attn_output.weight").T


def put_tokenizer(
    writer: GGUFWriter, *, pre: str = "gpt-2", kind: str = "gpt2", template: str | None = TEMPLATE
) -> None:
    """Byte-level BPE with two control tokens, of which the first ends an answer."""
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([TokenType.CONTROL] * len(SPECIAL) + [TokenType.NORMAL] * (VOCAB - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(0)
    if template is not None:
        writer.add_chat_template(template)


def _turned(x: Floats, theta: float, interleaved: bool) -> Floats:
    """A rope, as GGUF's models have it: llama turns neighbours together, the others the two halves of a head."""
    angles = np.arange(len(x))[:, None] / theta ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    turn = np.exp(1j * angles)[:, None, :]
    if interleaved:
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)
    turned = (x[..., : HEAD_DIM // 2] + 1j * x[..., HEAD_DIM // 2 :]) * turn
    return np.concatenate([turned.real, turned.imag], axis=-1)


def _silu(x: Floats) -> Floats:
    return x / (1 + np.exp(-x))


def _gelu(x: Floats) -> Floats:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
