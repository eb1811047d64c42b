"""The drafters by name, one row each. Imports no MLX, so that the command line can list them."""

from __future__ import annotations

from collections.abc import Mapping

from helix_mlx.errors import SettingsError
from helix_mlx.speculative.acceptance import PRIOR
from helix_mlx.speculative.drafter import DrafterSpec, Needs
from helix_mlx.speculative.ngram import LONG_MATCH, SHORT_MATCH, NgramLookup

MODEL, NGRAM = "model", "ngram"
AUTO, NONE = "auto", "none"
"""The special names: choose the fastest, and no drafts."""

Drafters = Mapping[str, DrafterSpec]
"""Drafters by name, in the order in which they are preferred where a draft length is fixed."""

DRAFTERS: Drafters = {
    spec.name: spec
    for spec in (
        DrafterSpec(MODEL, Needs.DRAFT_MODEL, {MODEL: PRIOR}),
        DrafterSpec(NGRAM, Needs.TOKENS, {SHORT_MATCH: 0.35, LONG_MATCH: 0.7}, NgramLookup),
    )
}


def names(drafters: Drafters = DRAFTERS) -> tuple[str, ...]:
    """Every valid drafter name."""
    return (AUTO, *drafters, NONE)


def check_drafter(name: str, drafters: Drafters = DRAFTERS) -> str:
    """The same name.

    Raises:
        SettingsError: there is no such drafter.
    """
    if name not in names(drafters):
        raise SettingsError(f"drafter is {name}, but must be one of {', '.join(names(drafters))}")
    return name


def candidates(name: str, has_model: bool, drafters: Drafters = DRAFTERS) -> dict[str, DrafterSpec]:
    """The available drafters that a name stands for, in registry order.

    Args:
        name: one of `names`.
        has_model: whether there is a draft model.
        drafters: the registry.
    """
    wanted = drafters if name == AUTO else {name: drafters[name]} if name in drafters else {}
    return {key: spec for key, spec in wanted.items() if has_model or spec.needs is not Needs.DRAFT_MODEL}


def uses_draft_model(name: str, drafters: Drafters = DRAFTERS) -> bool:
    """Whether a draft model may be asked where this name is given.

    Raises:
        SettingsError: there is no such drafter.
    """
    specs = candidates(check_drafter(name, drafters), has_model=True, drafters=drafters)
    return any(spec.needs is Needs.DRAFT_MODEL for spec in specs.values())
