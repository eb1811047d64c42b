"""The model card of the built-in pair, written from what was measured."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from helix_mlx.convert.builtin.data.corpus import KINDS, Corpus, TextKind
from helix_mlx.convert.builtin.evaluation import Acceptance, Report

KIND_NAMES: dict[TextKind, str] = {
    "code": "standard-library code",
    "stdlib": "questions about the standard library",
    "helix": "questions about Helix",
}

TEMPLATE = """\
# The built-in pair of Helix

A target and a draft, so that Helix runs at once, without a download: a demonstration, and the pair its tests run on.
Both are Llama models of mlx-lm's, in 4 bits (affine, groups of 64, scales in float16), with one tokenizer: byte-level
BPE of 4,096 ids.

| | layers | width | parameters | on disk |
|---|---|---|---|---|
{sizes}

## What it is not

It is not an assistant. It knows, by heart and not always rightly, short answers about Helix and about the Python
standard library, and it can imitate library code. **Outside its text it babbles**, in fluent and confident words. For
anything else fetch a real pair: `helix-mlx pairs` shows how.

## Data

* **Code**: {code_files} files of the Python {python} standard library ({code_characters:.1f} million characters),
  without tests and tables. Copyright (c) Python Software Foundation and contributors; used under the PSF License
  Agreement, which allows copies and derivative works: <https://docs.python.org/3/license.html>.
* **Questions about the standard library**: {stdlib_questions:,} questions about {stdlib_subjects:,} functions, classes
  and modules, made from its docstrings and signatures (the same licence).
* **Questions about Helix**: {helix_questions:,} phrasings of {helix_subjects} topics, written for it
  (`convert/builtin/data/helix_questions.toml`), and questions out of its scope (`chat.toml`). MIT licence, as Helix.

Held out and never trained on, chosen by a hash of their names: {held_code} files, {held_stdlib} standard-library
questions (3 % of the functions with all their phrasings, 4 % of the other phrasings) and {held_helix} phrasings about
Helix. The docstrings behind those questions may occur in the files learnt as code.

## Recipe

```
python -m helix_mlx.convert.builtin --out DIR --minutes {minutes:.0f}
```

trains tokenizer, target and draft on a CPU, quantises them and writes this card with its own figures. Muon for the
matrices, AdamW for embeddings and norms; rows of 256 tokens, the last eighth of the time of 1,024; quantisation-aware
for the last fifth. The draft begins as the target's embeddings, first and last layer, and learns the probabilities of
the quantised target, on the corpus and on text the target wrote itself (at temperatures 0, 0.8 and 1).{tuned}

This pair: {record}.

## Figures

Held-out prompts, {prompts} of each kind, up to 96 new tokens, four drafts a cycle. *Accepted* is accepted drafts per
drafted token; greedy verification at temperature 0, the token rule at 0.8 (block verification accepts at least as
much). Drafts after the end of an answer count as drafted.

| | accepted, T = 0 | by position | tokens a pass | accepted, T = 0.8 | by position | tokens a pass |
|---|---|---|---|---|---|---|
{acceptance}

| perplexity on held-out text | target | draft |
|---|---|---|
{perplexity}

## The twenty questions

Asked one by one in the chat template at temperature 0. Right: {right} of {total}.

{questions}
"""


TUNED = """
Last, both are tuned to each other: the draft goes on learning, and on code the target is drawn to what the draft can
foresee. The pair is the mean of the weights before and after this tuning: without the mean it accepts still more on
code, but at a much higher perplexity."""


@dataclass(frozen=True)
class TrainingRecord:
    """What one training took: the role it trained, minutes of the clock, optimiser steps."""

    role: str
    minutes: float
    steps: int


def read_records(folder: Path, roles: Iterable[str]) -> list[TrainingRecord]:
    """The trainings done in ``folder``, from the clocks they left."""
    records = []
    for role in roles:
        file = folder / f"{role}_training" / "clock.json"
        if file.exists():
            clock = json.loads(file.read_text(encoding="utf-8"))
            records.append(TrainingRecord(role, clock["elapsed"] / 60.0, int(clock["steps"])))
    return records


def _acceptance_cells(counts: Acceptance) -> str:
    places = " ".join(f"{rate:.2f}" for rate in counts.rates_by_position)
    return f"{counts.rate:.2f} | {places} | {counts.emitted / max(1, counts.cycles):.2f}"


def _size_row(name: str, folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    parameters = index["metadata"]["total_parameters"] / 1e6
    size = (folder / "model.safetensors").stat().st_size / 1e6
    shape = f"{config['num_hidden_layers']} | {config['hidden_size']}"
    return f"| {name} | {shape} | {parameters:.2f} M | {size:.1f} MB |"


def render(report: Report, corpus: Corpus, pair: Path, records: Sequence[TrainingRecord], prompts_a_kind: int) -> str:
    """The text of the card for the quantised pair in ``pair``."""
    stdlib = [item for item in corpus.questions if item.kind == "stdlib"]
    helix = [item for item in corpus.questions if item.kind == "helix" and item.subject != "out of scope"]
    held = [item.kind for item in corpus.held_out_questions if item.subject != "out of scope"]
    acceptance = [
        f"| {KIND_NAMES[kind]} | {_acceptance_cells(report.acceptance[kind, 0.0])}"
        f" | {_acceptance_cells(report.acceptance[kind, 0.8])} |"
        for kind in KINDS
    ]
    perplexity = [
        f"| {KIND_NAMES[kind]} | {report.perplexity[kind, 'target']:.2f} | {report.perplexity[kind, 'draft']:.2f} |"
        for kind in KINDS
    ]
    questions = [
        f"{number}. **{item.question}**{'' if item.is_right else ' (wrong)'}\n   {item.answer}"
        for number, item in enumerate(report.twenty, start=1)
    ]
    return TEMPLATE.format(
        sizes="\n".join(_size_row(name, pair / name) for name in ("target", "draft")),
        code_files=len(corpus.code),
        code_characters=sum(len(file.text) for file in corpus.code) / 1e6,
        python=".".join(map(str, sys.version_info[:2])),
        stdlib_questions=len(stdlib),
        stdlib_subjects=len({item.subject for item in stdlib}),
        helix_questions=len(helix),
        helix_subjects=len({item.subject for item in helix}),
        held_code=len(corpus.held_out_code),
        held_stdlib=held.count("stdlib"),
        held_helix=held.count("helix"),
        minutes=math.ceil(sum(item.minutes for item in records) / 10.0) * 10,
        tuned=TUNED if any(item.role == "pair" for item in records) else "",
        record=", ".join(f"{item.role} {item.minutes:.0f} minutes ({item.steps:,} steps)" for item in records),
        prompts=prompts_a_kind,
        acceptance="\n".join(acceptance),
        perplexity="\n".join(perplexity),
        right=sum(item.is_right for item in report.twenty),
        total=len(report.twenty),
        questions="\n".join(questions),
    )
