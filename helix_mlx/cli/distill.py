"""`helix-mlx convert distill`: train the draft of a pair on its target's answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from helix_mlx.cli.console.progress import ProgressBars
from helix_mlx.cli.console.terminal import BOLD, DIM, Terminal
from helix_mlx.models.pairs import pairs_folder


@click.command("distill", short_help="Train a pair's draft on its target's answers.")
@click.argument("pair")
@click.option("--prompts", required=True, metavar="FILE", help="Prompts, one per line, or a .jsonl file.")
@click.option("--out", metavar="NAME|DIR", help="Name or folder of the new pair.  [default: PAIR-distilled]")
@click.option(
    "--teach",
    "how",
    type=click.Choice(("auto", "full", "lora")),
    default="auto",
    show_default=True,
    help="Train all weights or LoRA adapters; auto trains all weights of a small draft.",
)
@click.option(
    "--texts", default=3, show_default=True, type=click.IntRange(1, 64), metavar="N", help="Answers per prompt."
)
@click.option(
    "--max-tokens",
    default=128,
    show_default=True,
    type=click.IntRange(8),
    metavar="N",
    help="Maximum tokens per answer.",
)
@click.option(
    "--epochs",
    default=6,
    show_default=True,
    type=click.IntRange(1),
    metavar="N",
    help="Passes over the training texts.",
)
@click.option(
    "--rate", type=click.FloatRange(0, 1, min_open=True), metavar="R", help="Learning rate.  [default: by model width]"
)
@click.option(
    "--held-out", default=0.15, show_default=True, metavar="SHARE", help="Share of prompts held out for testing."
)
@click.option("--seed", default=0, show_default=True, type=int, metavar="N", help="Seed for shuffling.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--no-color", is_flag=True, help="Disable colours, as NO_COLOR does.")
@click.pass_context
def distill_command(ctx: click.Context, /, **options: Any) -> None:
    """Fine-tune PAIR's draft on its target's answers to your prompts, and save a new pair.

    The draft that does best on held-out prompts is kept. The target does not change, nor do its answers; they come
    faster when more drafts are accepted. To resume an interrupted run, run the same command again.
    """
    terminal = Terminal.of_process(ctx.obj or {}, options["no_color"])
    # Imported here, so that help and errors in the options come before MLX is loaded.
    from helix_mlx.convert.distill.distillation import Wanted, distill
    from helix_mlx.convert.distill.training import Schedule
    from helix_mlx.convert.pair_folder import out_folder

    name = options["out"] or f"{Path(options['pair']).name}-distilled"
    out = out_folder(name, pairs_folder())
    schedule = Schedule(options["epochs"], options["rate"], options["seed"])
    wanted = Wanted(
        options["pair"], Path(options["prompts"]), out, options["how"], options["texts"], options["max_tokens"],
        options["held_out"], schedule,
    )  # fmt: skip
    with ProgressBars(terminal) as bars:
        report = distill(wanted, bars.line, bars.update)
    if options["as_json"]:
        terminal.line(json.dumps({"folder": str(out), **report}))
        return
    terminal.line(terminal.paint(str(out), BOLD))
    for row in gained(report):
        terminal.line(terminal.paint(f"  {row}", DIM))
    terminal.line(f"Next: helix-mlx chat --pair {name}")


def gained(report: dict[str, Any]) -> list[str]:
    """The results on held-out prompts, one line per temperature."""
    lines = []
    for before, after in zip(report["before"], report["after"], strict=True):
        kept = f"acceptance {before['acceptance']:.3f} before, {after['acceptance']:.3f} now"
        tokens = f"tokens/cycle {before['tokens_per_cycle']:.2f} before, {after['tokens_per_cycle']:.2f} now"
        lines.append(f"held-out prompts, temperature {before['temperature']:g}: {kept}; {tokens}")
    return lines
