"""The draft while it learns: float weights that are rounded, in every pass, as its file will round them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.layers.base import Module
from mlx.utils import tree_map_with_path, tree_unflatten
from mlx_lm import utils
from mlx_lm.tuner.lora import LoRALinear

from helix_mlx.convert.builtin.architecture import named_arrays
from helix_mlx.models.files import copy_others
from helix_mlx.models.loader import read_config, read_model

FULL_BYTES = 800_000_000
"""Float weights up to which all of them are taught by default; above, a few numbers a layer."""
RANK, LORA_SCALE = 16, 2.0


@dataclass(frozen=True)
class Rounding:
    """How a layer's weight is quantised, and the type of its scales."""

    group_size: int
    bits: int
    mode: str
    dtype: mx.Dtype

    def rounded(self, weight: mx.array) -> mx.array:
        """The weight as its file will have it; gradients pass straight through (Bengio et al. 2013, 1308.3432)."""
        settings: dict[str, Any] = {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}
        codes, *others = mx.quantize(mx.stop_gradient(weight).astype(self.dtype), **settings)
        scales, biases = others[0], others[1] if len(others) > 1 else None
        if biases is not None:  # a product takes scales and biases as they are, and rounds nothing on its way
            scales, biases = scales.astype(weight.dtype), biases.astype(weight.dtype)
        restored = mx.dequantize(codes, scales, biases, **settings).astype(weight.dtype)
        return weight + mx.stop_gradient(restored - weight)


class _Placed:
    """A layer that makes logits of some places only; its parameters are those of the layer that it stands for."""

    places: mx.array | None

    def __init__(self, layer: nn.Module) -> None:
        Module.__init__(self)  # type: ignore[arg-type]
        dict.update(self, layer)  # type: ignore[call-overload]
        vars(self)["places"] = None

    def _chosen(self, x: mx.array) -> mx.array:
        return x if self.places is None else x.reshape(-1, x.shape[-1])[self.places][None]


class _PlacedLinear(_Placed, nn.Linear):
    def __call__(self, x: mx.array) -> mx.array:
        return nn.Linear.__call__(self, self._chosen(x))


class _PlacedEmbedding(_Placed, nn.Embedding):
    def as_linear(self, x: mx.array) -> mx.array:
        return nn.Embedding.as_linear(self, self._chosen(x))


def _placed_head(model: Any) -> Any:
    """The layer that makes a model's logits, changed to make those of some places; None where it cannot be told."""
    layers = dict(model.named_modules())
    heads = [path for path in ("lm_head", "model.embed_tokens") if type(layers.get(path)) in (nn.Linear, nn.Embedding)]
    if not heads:
        return None
    kind: Any = _PlacedLinear if heads[0] == "lm_head" else _PlacedEmbedding
    placed = kind(layers[heads[0]])
    model.update_modules(tree_unflatten([(heads[0], placed)]))
    probe = mx.zeros((1, 2), mx.int32)
    vars(placed)["places"] = mx.array([1], mx.int32)
    chooses = model(probe).shape[:2] == (1, 1)  # seen in a pass that is never evaluated
    vars(placed)["places"] = None
    return placed if chooses else None


class Student:
    """A draft that can be taught.

    Args:
        folder: of the draft, quantised or not.
        how: "full" teaches every weight, "lora" a low-rank change of each linear layer (Hu et al. 2021, 2106.09685),
            "auto" all of a small draft.
        seed: of what a low-rank change begins with.

    Raises:
        ModelError: the folder holds no model that can be read.
    """

    def __init__(self, folder: Path, how: str, seed: int) -> None:
        self._folder = folder
        read_config(folder, trust_remote_code=False)
        model, _ = read_model(folder)
        self._stored = {path: array.dtype for path, array in named_arrays(model.parameters())}
        self.roundings = _roundings(model)
        size = utils.get_total_parameters(model)
        self.how = how if how != "auto" else ("full" if size * 4 <= FULL_BYTES else "lora")
        self._quantised = {} if self.how == "full" else dict(named_arrays(model.parameters()))
        if self.how == "full" or mx.default_device() == mx.Device(mx.cpu):
            model.set_dtype(mx.float32)
        self.model: Any = utils.dequantize_model(model)
        self._adapters: dict[str, LoRALinear] = {}
        self._bases: dict[str, mx.array] = {}
        mx.eval(self.model.parameters())
        self._head = _placed_head(self.model)
        if self.how == "full":
            self.start: Any = self.model.trainable_parameters()
        else:
            self.start = self._adapted(seed)

    @property
    def width(self) -> int:
        """The model's: what its layers hand on for a token."""
        widths = [array.shape[-1] for path, array in named_arrays(self.model.parameters()) if "embed" in path]
        return int(widths[0]) if widths else 1024

    def logits(self, parameters: Any, tokens: mx.array, places: mx.array) -> mx.array:
        """What the draft says with these parameters, rounded as its file will be.

        Gradients find their way back to `parameters`.

        Args:
            parameters: as `start`.
            tokens: `[B, L]` int32.
            places: `[N]` int32, in `[B * L]`.

        Returns:
            `[N, V]` float32, of those places; where the head can be told, nothing else is computed.
        """
        self._use(parameters)
        if self._head is not None:
            vars(self._head)["places"] = places
        found = self.model(tokens)
        if self._head is not None:
            vars(self._head)["places"] = None
        else:
            found = found.reshape(-1, found.shape[-1])[places]
        logits: mx.array = found.reshape(-1, found.shape[-1]).astype(mx.float32)
        return logits

    def _use(self, parameters: Any, *, rounds: bool = True) -> None:
        """Give the model the weights of trainable parameters, rounded unless they are to be saved."""
        if self.how == "lora":
            changes = dict(named_arrays(parameters))
            parameters = tree_unflatten([(f"{path}.weight", self._changed(path, changes)) for path in self._adapters])
        if rounds:
            parameters = tree_map_with_path(self._rounded, parameters)
        self.model.update(parameters)

    def save(self, parameters: Any, folder: Path) -> None:
        """Write a model's folder with weights of these parameters, quantised as the draft was.

        Args:
            parameters: as `start`.
            folder: is made.
        """
        self._use(parameters, rounds=False)
        folder.mkdir(parents=True)
        model = self.model

        def stored(path: str, array: mx.array) -> mx.array:
            rounding = self.roundings.get(path.removesuffix(".weight"))
            return array.astype(rounding.dtype if rounding else self._stored.get(path, array.dtype))

        model.update(tree_map_with_path(stored, model.parameters()))

        def settings(path: str, module: nn.Module) -> bool | dict[str, Any]:
            rounding = self.roundings.get(path)
            if rounding is None:
                return False
            return {"group_size": rounding.group_size, "bits": rounding.bits, "mode": rounding.mode}

        nn.quantize(model, class_predicate=settings)
        # What was not taught is what it was: quantised once more, it would move.
        kept = {path: each for path, each in self._quantised.items() if path.rpartition(".")[0] not in self._adapters}
        model.update(tree_unflatten(list(kept.items())))
        utils.save_model(folder, model)
        copy_others(self._folder, folder, "config.json", "*.py")

    def _rounded(self, path: str, array: mx.array) -> mx.array:
        rounding = self.roundings.get(path.removesuffix(".weight"))
        if rounding is not None:
            return rounding.rounded(array)
        stored = array.astype(self._stored.get(path, array.dtype)).astype(array.dtype)
        return array + mx.stop_gradient(stored - array)

    def _adapted(self, seed: int) -> Any:
        """Low-rank changes of all linear layers, by mlx-lm's class; what is trained is theirs alone."""
        mx.random.seed(seed)
        for path, layer in self.model.named_modules():
            if isinstance(layer, nn.Linear):
                self._adapters[path] = LoRALinear.from_base(layer, r=RANK, scale=LORA_SCALE)
        self._bases = {path: each.linear.weight for path, each in self._adapters.items()}
        changes = [
            (f"{path}.{name}", each[name]) for path, each in self._adapters.items() for name in ("lora_a", "lora_b")
        ]
        mx.eval([change for _, change in changes])
        return tree_unflatten(changes)

    def _changed(self, path: str, changes: dict[str, mx.array]) -> mx.array:
        """A layer's weight with its change: `LoRALinear.fuse`."""
        adapter = self._adapters[path]
        adapter.linear.weight = self._bases[path]
        adapter.lora_a, adapter.lora_b = changes[f"{path}.lora_a"], changes[f"{path}.lora_b"]
        fused: Any = adapter.fuse()
        weight: mx.array = fused.weight
        return weight


def _roundings(model: Any) -> dict[str, Rounding]:
    """By its path, how each quantised layer is."""
    return {
        path: Rounding(layer.group_size, layer.bits, layer.mode, _float_of(layer))
        for path, layer in model.named_modules()
        if "scales" in layer
    }


def _float_of(layer: Any) -> mx.Dtype:
    dtype = layer["scales"].dtype
    return dtype if dtype in (mx.float32, mx.float16, mx.bfloat16) else mx.bfloat16
