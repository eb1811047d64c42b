"""Trains the built-in pair from nothing: ``python -m helix_mlx.convert.builtin --out DIR --minutes 120``.

The result is ``DIR/tiny``: a 4-bit target and draft and the model card, ready to take the place of
``helix_mlx/models/tiny``. Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import click

# How the minutes are divided: the target, its draft, and both tuned to each other.
SHARES = {"target": 0.5, "draft": 0.3, "pair": 0.2}


def make_tokenizer(folder: Path) -> None:
    """Trains the tokenizer on the training part of the corpus, if it is not there yet."""
    from helix_mlx.convert.builtin.data import tokenizer
    from helix_mlx.convert.builtin.data.corpus import build_corpus

    text = build_corpus()
    characters = sum(len(file.text) for file in text.code)
    click.echo(f"corpus: {len(text.code)} files ({characters:,} characters), {len(text.questions):,} questions")
    if (folder / "tokenizer.json").exists():
        return
    questions = (f"{item.question}\n{item.answer}" for item in text.questions)
    trained = tokenizer.train_tokenizer([*(file.text for file in text.code), *questions])
    tokenizer.save_tokenizer(trained, folder)
    click.echo(f"tokenizer: {trained.get_vocab_size():,} ids")


def average_pair(folder: Path, averaged: Path) -> None:
    """Takes the mean of the pair before and after tuning.

    Halfway keeps nearly all the perplexity of the one and nearly all the acceptance of the other: the two are one
    short training apart, and in between the loss is flat.
    """
    from helix_mlx.convert.builtin.architecture import average_checkpoints

    averaged.mkdir(exist_ok=True)
    for name in ("target", "draft"):
        average_checkpoints(folder / name, folder / "tuned" / name, averaged / name)


def quantise_pair(folder: Path, pair: Path) -> None:
    """Quantises ``folder/target`` and ``folder/draft`` into the folder ``pair``, replacing what it held."""
    from helix_mlx.convert.quantization import quantize_checkpoint

    shutil.rmtree(pair, ignore_errors=True)
    for name in ("target", "draft"):
        quantize_checkpoint(folder / name, pair / name)
        size = sum(file.stat().st_size for file in (pair / name).iterdir())
        click.echo(f"{name}: {size / 1e6:.2f} MB in 4 bits")


def measure(folder: Path, pair: Path, prompts_a_kind: int = 40) -> None:
    """Measures the quantised pair made in ``folder`` and writes its model card."""
    from helix_mlx.convert.builtin import evaluation, model_card
    from helix_mlx.convert.builtin.data.corpus import build_corpus

    text = build_corpus()
    report = evaluation.evaluate(pair, text, prompts_a_kind)
    card = model_card.render(report, text, pair, model_card.read_records(folder, SHARES), prompts_a_kind)
    (pair / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    click.echo(card)


@click.command()
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True, help="Folder to work in.")
@click.option("--minutes", type=float, default=120.0, show_default=True, help="Time for all trainings together.")
@click.option("--workers", type=int, default=None, help="Processes; by default one a core.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of weights and rows.")
def main(folder: Path, minutes: float, workers: int | None, seed: int) -> None:
    """Train the built-in pair: corpus, tokenizer, target, draft, quantisation, figures."""
    from helix_mlx.convert.builtin.compute.processes import run_workers

    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer(folder / "tokenizer")
    processes = workers or os.cpu_count() or 1
    for role, share in SHARES.items():
        click.echo(f"{role}: {minutes * share:.0f} minutes in {processes} processes")
        arguments = [role, "--out", str(folder), "--minutes", str(minutes * share), "--seed", str(seed)]
        run_workers(arguments, processes, folder)
    average_pair(folder, folder / "averaged")
    quantise_pair(folder / "averaged", folder / "tiny")
    measure(folder, folder / "tiny")


if __name__ == "__main__":
    main()
