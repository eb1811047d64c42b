"""The context length of a model, from its configuration; values of a wrong type are ignored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_DRAFTS = 16
"""Where positions are learned, the drafts behind the last token have to have one, too."""
_NAMES = {
    "max_position_embeddings": 0, "n_positions": _DRAFTS, "n_ctx": _DRAFTS, "max_seq_len": 0, "seq_length": 0,
    "max_sequence_length": 0, "max_seq_length": 0, "model_max_length": 0,
}  # fmt: skip
"""The names of the limit in different families, and how much of it must stay free."""
_SCALED = ("llama3", "longrope", "su")
"""Kinds of rope whose configurations state the limit as it is with the scaling."""
_SCALED_FAMILIES = ("gemma3", "gemma3_text")
"""Families that do so with any kind."""


def context_limit(config: dict[str, Any]) -> int | None:
    """The positions a model was made for, scaling of its rope included; None where its configuration does not say."""
    nested = config.get("text_config")
    for part in (config, nested if isinstance(nested, dict) else {}):
        for name, spare in _NAMES.items():
            stated = _count(part.get(name))
            if stated is None or stated <= spare:
                continue
            if name != "max_position_embeddings":
                return stated - spare
            # What a wrapper says once counts for all of it.
            return _scaled(stated, {**config, **part})
    return None


def _scaled(stated: int, config: dict[str, Any]) -> int:
    """The limit that a configuration comes to which states `stated` positions."""
    # Of Cohere's models, whose other number is that of the training.
    stated = max(stated, _count(config.get("model_max_length")) or 0)
    if config.get("model_type") in _SCALED_FAMILIES:
        return stated
    return max([stated, *(_reach(stated, rope, config) for rope in _ropes(config))])


def _reach(stated: int, rope: dict[str, Any], config: dict[str, Any]) -> int:
    """How far one kind of rope goes.

    Some configurations state the positions before scaling, some those after it; where the original ones are told
    beside, they tell which.
    """
    kind, factor = rope.get("rope_type", rope.get("type")), rope.get("factor")
    if not isinstance(kind, str) or isinstance(factor, bool) or not isinstance(factor, (int, float)):
        return stated
    name = "original_max_position_embeddings"
    original = _count(rope.get(name, config.get(name)))
    if kind == "default" or not 1 <= factor <= 2**20 or (kind in _SCALED and (original is None or original < stated)):
        return stated
    return int((original or stated) * factor)


def _ropes(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The settings of the rope, or of each kind of layer's."""
    for name in ("rope_scaling", "rope_parameters"):
        found = config.get(name)
        if isinstance(found, dict):
            yield from (each for each in (found, *found.values()) if isinstance(each, dict))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40 else None
