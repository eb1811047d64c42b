"""A model's generation_config.json: its makers' defaults for settings that the user does not give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helix_mlx.errors import ModelError, SettingsError
from helix_mlx.models.third_party import one_line
from helix_mlx.request import MODEL_SETTINGS, SamplingParams

NAME = "generation_config.json"
_NEUTRAL: Mapping[str, Any] = {
    "repetition_penalty": 1,
    "encoder_repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "no_repeat_ngram_size": 0,
    "typical_p": 1,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "top_h": None,
    "num_beams": 1,
    "penalty_alpha": 0,
    "guidance_scale": 1,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "exponential_decay_length_penalty": None,
}
"""Settings that Helix does not support, and the value at which each has no effect."""


@dataclass(frozen=True)
class GenerationConfig:
    """The contents of a generation_config.json.

    Args:
        settings: fields of `SamplingParams`, checked.
        left_out: what it asks for and Helix does not have, by name.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, Any] = field(default_factory=dict)


def read_generation_config(folder: Path) -> GenerationConfig:
    """What a model's folder asks for; nothing where it has no such file.

    Its end tokens are no setting: mlx-lm reads them as part of the model's configuration.

    Raises:
        ModelError: the file cannot be read, or has a value of the wrong kind or out of range.
    """
    file = folder / NAME
    given = check_generation_config(folder)
    settings = _settings(file, given)
    left_out = {
        name: given[name] for name, neutral in _NEUTRAL.items() if given.get(name, neutral) not in (neutral, [])
    }
    return GenerationConfig(settings, left_out)


def check_generation_config(folder: Path) -> dict[str, Any]:
    """What stands in the file, less what is null: of the form that mlx-lm takes for granted when it reads it.

    Raises:
        ModelError: it cannot be read, or is of another form.
    """
    file = folder / NAME
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{file} is damaged: {one_line(error)}; download the model again, or remove the file"
        ) from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} contains no settings; download the model again, or remove the file")
    check_end_tokens(file, found.get("eos_token_id") or [])
    return {name: value for name, value in found.items() if value is not None}


def check_end_tokens(file: Path, eos_ids: Any) -> None:
    """See that what ends an answer is an id or a list of them.

    Args:
        file: that says so.
        eos_ids: what it says; None where it does not.

    Raises:
        ModelError: it is something else.
    """
    ids = eos_ids if isinstance(eos_ids, list) else [] if eos_ids is None else [eos_ids]
    if not all(type(each) is int for each in ids):
        raise ModelError(
            f"{file}: eos_token_id is {eos_ids!r}, but must be an id or a list of ids; "
            "fix it, or download the model again"
        )


def own_eos_ids(folder: Path) -> Any:
    """The end tokens of a model's config.json alone, which generation_config.json would have replaced."""
    config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config.get("eos_token_id")


def _settings(file: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    samples = given.get("do_sample")
    settings = {name: given[name] for name in MODEL_SETTINGS if name in given}
    if settings.get("top_k") == -1:  # as others write that it is off
        settings["top_k"] = 0
    if samples and "temperature" not in settings:
        settings["temperature"] = 1.0  # what those who leave it out of the file mean by it
    try:
        if samples not in (None, True, False):
            raise SettingsError(f"do_sample is {samples!r}, but must be true or false")
        SamplingParams(**settings)
    except SettingsError as error:
        raise ModelError(f"in {file}, {error}; fix it, or add --no-generation-config") from error
    return {"temperature": 0.0} if samples is False else settings
