"""What distilling gains an under-trained draft of the built-in pair, and how long it takes.

    helix-mlx bench distillation [--prompts 200] [--steps 20] [--out FILE]

A draft of the built-in shape is trained for a few steps, joined with the built-in target by `helix-mlx convert`, and
taught by `helix-mlx convert distill`, each as a command of its own, as a user would run it. Acceptance is that of real
speculation with drafts of four on the prompts that were held out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from helix_mlx import models
from helix_mlx.bench.output.command import Measured, measurement
from helix_mlx.bench.output.tables import Asked, table

GAIN, MINUTES = 0.10, 10.0
HELIX = ("-c", "from helix_mlx.cli.app import main; main()")


def program(*words: str) -> str:
    """Run `python` with words; its errors are shown, its output is returned.

    Raises:
        click.ClickException: it failed.
    """
    ended = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise click.ClickException(f"{' '.join(words[2:4])} ended with {ended.returncode}")
    return ended.stdout


@measurement
@click.option(
    "--prompts", default=200, show_default=True, type=click.IntRange(16), help="Prompts to train and test on."
)
@click.option(
    "--steps",
    default=20,
    show_default=True,
    type=click.IntRange(1),
    help="Steps of the (deliberately short) first training.",
)
@click.option(
    "--teach",
    type=click.Choice(("auto", "full", "lora")),
    default="full",
    show_default=True,
    help="As in `convert distill`.",
)
def main(prompts: int, steps: int, teach: str) -> Measured:
    """Distil an under-trained draft, and show the gain in acceptance."""
    with tempfile.TemporaryDirectory(prefix="helix-mlx-") as temporary:
        folder = Path(temporary)
        made = ("--out", str(folder), "--steps", str(steps), "--prompts", str(prompts))
        program("-m", "helix_mlx.convert.builtin.weak_draft", *made)
        target = Path(models.__file__).parent / "tiny" / "target"
        pair, taught = folder / "pair", folder / "taught"
        both = ("--target", str(target), "--draft", str(folder / "draft"), "--out", str(pair))
        program(*HELIX, "convert", *both)
        began = time.perf_counter()
        words = (
            str(pair),
            "--prompts",
            str(folder / "prompts.jsonl"),
            "--out",
            str(taught),
            "--teach",
            teach,
            "--json",
        )
        report = json.loads(program(*HELIX, "convert", "distill", *words))
        seconds = time.perf_counter() - began
    asked = show(report, seconds)
    return {"seconds": seconds, **report}, asked


def show(report: dict[str, Any], seconds: float) -> list[Asked]:
    """Print the figures, and whether the aims are reached."""
    rows, gains = [], []
    for before, after in zip(report["before"], report["after"], strict=True):
        gains.append(after["acceptance"] - before["acceptance"])
        figures = (before["acceptance"], after["acceptance"], gains[-1])
        tokens = (before["tokens_per_cycle"], after["tokens_per_cycle"])
        name = f"temperature {before['temperature']:g}"
        rows.append([name, *(f"{value:.3f}" for value in figures), *(f"{value:.2f}" for value in tokens)])
    table(["held-out prompts", "kept before", "kept after", "gain", "tokens/cycle", "after"], rows)
    worst, minutes = min(gains), seconds / 60
    asked = [
        Asked("gain of acceptance, at the temperature with the least", f">= {GAIN}", f"{worst:.3f}", worst >= GAIN),
        Asked("minutes of the distillation", f"< {MINUTES:g}", f"{minutes:.1f}", minutes < MINUTES),
    ]
    return asked
