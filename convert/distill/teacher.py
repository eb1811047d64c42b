"""The target's opinion on its own texts: its most likely tokens at every place, computed once and kept on disk.

So the target need not be in memory, beside a draft and its optimiser, while the draft learns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from helix_mlx.convert.distill.texts import Text
from helix_mlx.types import Progress

TOP = 64
"""Tokens of a place that are kept; the others weigh little together, and count as rejected."""
TEMPERATURES = (1.0, 0.7)
"""Those that log partitions are kept for."""
ROWS = 1024
"""Places of a pass; what a large vocabulary makes of more does not fit a small machine."""
TEXTS_A_FILE = 32
Reader = Callable[[mx.array], mx.array]
"""Token ids `[1, L]` to logits `[1, L, V]`."""


@dataclass(frozen=True)
class Opinion:
    """Of the target on one text, for each of its n written tokens.

    Args:
        ids: `[n, top]` int32, the most likely tokens.
        logits: `[n, top]` float16, theirs, largest first, each less the largest.
        partitions: `[n, len(TEMPERATURES)]` float32, `log(sum(exp(logits / T)))` over the whole vocabulary, of logits
            less the largest, too.
    """

    ids: mx.array
    logits: mx.array
    partitions: mx.array


def ask_teacher(
    load: Callable[[], Reader], texts: Sequence[Text], vocab_size: int, folder: Path, progress: Progress
) -> list[Opinion]:
    """The target's opinions on texts; those that a folder has already are taken from there.

    Args:
        load: gives the target; called only if something is left to be asked.
        texts: in an order that stays.
        vocab_size: ids from here on are nobody's.
        folder: a file for every few texts.
        progress: is told texts done and in all.
    """
    folder.mkdir(exist_ok=True)
    found: list[Opinion] = []
    read: Reader | None = None
    for first in range(0, len(texts), TEXTS_A_FILE):
        part = texts[first : first + TEXTS_A_FILE]
        file = folder / f"{first:06d}.safetensors"
        if not file.exists():
            read = read or load()
            _keep(list(_opinions(read, part, vocab_size)), file)
        found += _kept(file, len(part))
        progress(len(found), len(texts))
    return found


def _opinions(read: Reader, texts: Sequence[Text], vocab_size: int) -> Iterator[Opinion]:
    """One text a pass, in chunks of its places; causal, so that a chunk needs what is before it only."""
    for text in texts:
        inputs = mx.array(text.tokens[:-1])[None]
        hidden_logits = read(inputs)[0, text.start - 1 :, :vocab_size]
        parts = [_opinion(hidden_logits[place : place + ROWS]) for place in range(0, hidden_logits.shape[0], ROWS)]
        columns = zip(*((part.ids, part.logits, part.partitions) for part in parts), strict=True)
        yield Opinion(*(mx.concatenate(list(column)) for column in columns))


def _opinion(logits: mx.array) -> Opinion:
    """Of logits `[n, V]`."""
    logits = logits.astype(mx.float32)
    logits = logits - logits.max(axis=-1, keepdims=True)
    top = min(TOP, logits.shape[-1])
    ids = mx.argpartition(-logits, top - 1, axis=-1)[..., :top]
    chosen = mx.take_along_axis(logits, ids, axis=-1)
    order = mx.argsort(-chosen, axis=-1)
    partitions = mx.stack([mx.logsumexp(logits / temperature, axis=-1) for temperature in TEMPERATURES], axis=-1)
    found = Opinion(
        mx.take_along_axis(ids, order, axis=-1).astype(mx.int32),
        mx.take_along_axis(chosen, order, axis=-1).astype(mx.float16),
        partitions,
    )
    mx.eval(found.ids, found.logits, found.partitions)
    return found


def _keep(opinions: Sequence[Opinion], file: Path) -> None:
    arrays: dict[str, mx.array] = {}
    for number, each in enumerate(opinions):
        arrays |= {f"{number}.ids": each.ids, f"{number}.logits": each.logits, f"{number}.partitions": each.partitions}
    beside = file.with_name(f"part-{file.name}")
    mx.save_safetensors(str(beside), arrays)
    beside.replace(file)


def _kept(file: Path, count: int) -> list[Opinion]:
    arrays: Any = mx.load(str(file))
    names = ("ids", "logits", "partitions")
    return [Opinion(*(arrays[f"{number}.{name}"] for name in names)) for number in range(count)]
