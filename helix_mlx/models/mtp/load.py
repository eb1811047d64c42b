"""A head as the draft of a pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx

from helix_mlx.errors import ModelError
from helix_mlx.kernels.device import on_cpu
from helix_mlx.models.loader import LoadedModel
from helix_mlx.models.mtp.head import MTPHead
from helix_mlx.models.mtp.weights import read_head
from helix_mlx.models.probe import ProbeCache, Probed
from helix_mlx.models.third_party import guarded
from helix_mlx.paging.page_pool import LayerShape
from helix_mlx.recurrent.layout import CacheLayout
from helix_mlx.types import Notice


def load_head(source: str, folder: Path, target: LoadedModel, notice: Notice | None) -> LoadedModel | None:
    """The head in a folder, for a target and the device in use; None where there is none, or none that is whole.

    Args:
        source: what people are told that it comes from.
        folder: the target's, or that of a head alone.
        target: in memory.
        notice: is told of a damaged head, which is left out.
    """
    try:
        head = read_head(folder, target.config, target.model)
        if head is None:
            return None
        with guarded("cannot read its weights", "fetch them again"):
            if on_cpu():
                head.set_dtype(mx.float32)
            mx.eval(head.parameters())
        return as_draft(source, folder, head, target)
    except ModelError as error:
        if notice is not None:
            notice(f"The multi-token-prediction head in {folder} is damaged and left out: {error}.")
        return None


def as_draft(source: str, folder: Path, head: MTPHead, target: LoadedModel) -> LoadedModel:
    """A head in memory as a pair's draft."""
    model: Any = head
    probed = Probed((_layer_shape(head),), CacheLayout.plain(1), target.vocab_size)
    return LoadedModel(f"{source} (mtp)", folder, model, target.config, probed, target.max_context)


def head_of(draft: LoadedModel | None) -> MTPHead | None:
    """The head that a pair's draft is; None where it is a model, or there is none."""
    model: object = None if draft is None else draft.model
    return model if isinstance(model, MTPHead) else None


def _layer_shape(head: MTPHead) -> LayerShape:
    """What a head's layer keeps for a position, read off a pass that is never evaluated."""
    probe = ProbeCache(0, None)
    head(mx.zeros((2, 1), mx.int32), mx.repeat(head.no_hidden(), 2, axis=0), [probe])
    assert probe.shape is not None
    return probe.shape
