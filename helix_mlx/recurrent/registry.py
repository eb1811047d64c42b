"""The recurrent layers that Helix can take back, one row each. To add one: its class, and how its state is kept.

The key is where mlx-lm defines the layer, which may be another file than the model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from helix_mlx.recurrent.scans import ScanCall, gated_delta_inputs, mamba2_inputs, mamba2_outputs


class By(Enum):
    """How a layer's state is taken back."""

    INPUTS = "the inputs of its convolutions and scans are kept, and the state is advanced by those that count"
    ROWS = "the layer is read row by row, and its state after each row is kept"


@dataclass(frozen=True)
class ConvolutionCall:
    """How a layer's own convolution is called: its parameters for the rows and for the inputs before them, and the
    axis of the rows.
    """

    rows: str
    state: str
    axis: int


@dataclass(frozen=True)
class Recurrence:
    """How a layer's state is taken back.

    `scans` are the scan functions that it calls, and `convolutions` its methods that convolve, both by their names;
    a convolution that joins the inputs before to the rows by `mx.concatenate` needs no mention.
    """

    by: By = By.INPUTS
    scans: Mapping[str, ScanCall] = field(default_factory=dict, hash=False)
    convolutions: Mapping[str, ConvolutionCall] = field(default_factory=dict, hash=False)


# mlx-lm's own pass of several rows has the bits of single steps here, masked rows included.
_GATED_DELTA = ScanCall("state", {"q": 1, "k": 1, "v": 1, "a": 1, "b": 1}, inputs=gated_delta_inputs)
# Mamba-2's scan in chunks rounds otherwise than its steps do, and so does lightning attention.
_MAMBA2 = ScanCall(
    "state",
    {"hidden_states": 1, "B": 1, "C": 1, "dt": 1},
    stepwise=True,
    inputs=mamba2_inputs,
    finish=mamba2_outputs,
)
_LIGHTNING = ScanCall("h", {"q": 2, "k": 2, "v": 2}, outputs=2, stepwise=True)

CONVOLUTION = Recurrence()
GATED_DELTA = Recurrence(scans={"gated_delta_update": _GATED_DELTA})
MAMBA2 = Recurrence(scans={"ssm_update": _MAMBA2})
LIGHTNING = Recurrence(scans={"recurrent_gla": _LIGHTNING})
ROW_BY_ROW = Recurrence(By.ROWS)
# Its state, of one row, is joined to all rows but the last, and to none where there is one.
LAST_ROW = Recurrence(convolutions={"_custom_convolution": ConvolutionCall("u", "state", axis=2)})

LAYERS: Mapping[tuple[str, str], Recurrence] = {
    ("baichuan_m1", "Attention"): LAST_ROW,
    ("bailing_hybrid", "LinearAttention"): LIGHTNING,
    ("bailing_moe_linear", "LinearAttention"): LIGHTNING,
    ("bailing_moe_v3", "BailingKDA"): GATED_DELTA,
    ("falcon_h1", "FalconH1Mixer"): MAMBA2,
    ("gear", "ConvKVGatedMixer"): CONVOLUTION,
    ("granitemoehybrid", "GraniteMoeHybridMamba2Mixer"): MAMBA2,
    ("jamba", "JambaMambaMixer"): ROW_BY_ROW,
    ("kimi_k3", "KimiK3DeltaAttention"): GATED_DELTA,
    ("kimi_linear", "KimiDeltaAttention"): GATED_DELTA,
    ("kimi_linear", "ShortConv1d"): CONVOLUTION,
    ("lfm2", "ShortConv"): CONVOLUTION,
    ("lfm2_moe", "ShortConv"): CONVOLUTION,
    ("longcat_flash_ngram", "NgramEmbedding"): CONVOLUTION,
    ("mamba", "MambaBlock"): ROW_BY_ROW,
    ("mamba2", "Mamba2Block"): MAMBA2,
    ("nemotron_h", "NemotronHMamba2Mixer"): MAMBA2,
    ("olmo_hybrid", "GatedDeltaNet"): GATED_DELTA,
    ("plamo2", "Mamba"): MAMBA2,
    ("qwen3_5", "GatedDeltaNet"): GATED_DELTA,
    ("qwen3_next", "Qwen3NextGatedDeltaNet"): GATED_DELTA,
    ("recurrent_gemma", "RecurrentBlock"): ROW_BY_ROW,
    ("rwkv7", "Rwkv7ChannelMixing"): ROW_BY_ROW,
    ("rwkv7", "Rwkv7TimeMixing"): ROW_BY_ROW,
}
