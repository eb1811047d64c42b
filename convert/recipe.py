"""How weights are quantised: bits, groups, modes, recipes by layer; and what suits which chip."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from helix_mlx.errors import SettingsError

MODES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "affine": ((2, 3, 4, 5, 6, 8), (32, 64, 128)),
    "mxfp4": ((4,), (32,)),
    "mxfp8": ((8,), (32,)),
    "nvfp4": ((4,), (16,)),
}
"""Bits and group sizes that each mode has; the defaults are mlx-lm's."""
DEFAULTS = {"affine": (4, 64), "mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
MIXED = ("mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6")
DTYPES = ("float16", "bfloat16", "float32")


@dataclass(frozen=True)
class Recipe:
    """What is done to a model's weights.

    Args:
        bits, group_size: None takes the mode's own.
        mode: "affine", "mxfp4", "mxfp8", "nvfp4"; or "float", which quantises nothing.
        mixed: one of MIXED, which gives some layers more bits; None treats all alike.
        dtype: of what is not quantised; None takes the checkpoint's.
        again: quantise weights once more that are quantised already, instead of taking them as they are.

    Raises:
        SettingsError: the values do not go together.
    """

    bits: int | None = None
    group_size: int | None = None
    mode: str = "affine"
    mixed: str | None = None
    dtype: str | None = None
    again: bool = False

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise SettingsError(f"dtype is {self.dtype}, but must be one of {', '.join(DTYPES)}")
        if self.mode == "float":
            if (self.bits, self.group_size, self.mixed) != (None, None, None):
                raise SettingsError("mode float quantises nothing; leave out --bits, --group-size and --recipe")
            return
        if self.mode not in MODES:
            raise SettingsError(f"mode is {self.mode}, but must be one of {', '.join((*MODES, 'float'))}")
        bits, groups = MODES[self.mode]
        if self.bits is not None and self.bits not in bits:
            raise SettingsError(f"bits is {self.bits}, but mode {self.mode} has {_listed(bits)}")
        if self.group_size is not None and self.group_size not in groups:
            raise SettingsError(f"group-size is {self.group_size}, but mode {self.mode} has {_listed(groups)}")
        if self.mixed is not None:
            if self.mixed not in MIXED:
                raise SettingsError(f"recipe is {self.mixed}, but must be one of {', '.join(MIXED)}")
            if self.mode != "affine" or self.bits is not None:
                raise SettingsError("a recipe sets the bits itself, in mode affine; leave out --bits and --mode")

    @property
    def settings(self) -> dict[str, Any]:
        """Bits, group size and mode, with nothing left open."""
        bits, group_size = DEFAULTS[self.mode]
        return {"group_size": self.group_size or group_size, "bits": self.bits or bits, "mode": self.mode}

    @property
    def bytes_per_weight(self) -> float:
        """A bound on what a weight takes, scales included."""
        if self.mode == "float":
            return 4.0 if self.dtype == "float32" else 2.0
        settings = self.settings
        bits = 6 if self.mixed else settings["bits"]
        return bits / 8 + (4 if self.mode == "affine" else 1) / settings["group_size"]


def advice(chip: str, recipe: Recipe) -> str | None:
    """What would suit a chip better, and why; None where nothing would.

    M1 and M2 read 4-bit affine weights once for each row of a small batch; with a floating 4-bit mode MLX reads them
    once for up to five, which is what verifying drafts needs.
    """
    if recipe.mode == "affine" and recipe.settings["bits"] == 4 and re.search(r"\bM[12]\b", chip):
        return (
            f"On {chip} several rows of affine weights cost several passes; --mode mxfp4 reads them once for up to "
            "five rows, so drafts are checked faster there (the text may differ a little)."
        )
    return None


def dtype_of(recipe: Recipe, config: dict[str, Any]) -> mx.Dtype | None:
    """The type of what is not quantised: the recipe's, or what the checkpoint says; None leaves all as it is."""
    text = config.get("text_config") or {}
    name = recipe.dtype or config.get("torch_dtype") or text.get("dtype")
    found = getattr(mx, name) if name in DTYPES else None
    assert found is None or isinstance(found, mx.Dtype)
    return found


def _listed(numbers: tuple[int, ...]) -> str:
    return " or ".join(map(str, numbers))
