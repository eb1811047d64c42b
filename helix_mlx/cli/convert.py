"""`helix-mlx convert`: from checkpoints on the hub or on disk to a pair that every command takes by name."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from helix_mlx.cli.pairs import human_bytes
from helix_mlx.cli.progress import ProgressBar
from helix_mlx.cli.terminal import BOLD, DIM, Terminal
from helix_mlx.errors import SettingsError
from helix_mlx.models.pairs import pairs_folder

BITS = ("2", "3", "4", "5", "6", "8")


@click.command("convert", short_help="Make a pair of two checkpoints.")
@click.option("--target", metavar="PATH|REPO", help="The large model.")
@click.option("--draft", metavar="PATH|REPO", help="The small one, of the same vocabulary; may be left out.")
@click.option("--out", metavar="NAME|DIR", help="A name for `--pair`, or a folder; it does not exist yet.")
@click.option("--bits", type=click.Choice(BITS), help="Bits a weight.  [default: 4, or the mode's]")
@click.option("--draft-bits", type=click.Choice(BITS), help="Of the draft.  [default: as the target]")
@click.option("--group-size", type=int, metavar="N", help="Weights that share a scale.  [default: 64, or the mode's]")
@click.option(
    "--mode", default="affine", show_default=True, metavar="MODE", help="affine, mxfp4, mxfp8, nvfp4 or float."
)
@click.option("--recipe", metavar="NAME", help="More bits for some layers: mixed_2_6, mixed_3_4, mixed_3_6, mixed_4_6.")
@click.option("--dtype", metavar="TYPE", help="Of what is not quantised: float16, bfloat16, float32.")
@click.option("--requantize", is_flag=True, help="Quantise again what is quantised; else it is taken as it is.")
@click.option("--revision", metavar="REV", help="Of the target's repository.")
@click.option("--draft-revision", metavar="REV", help="Of the draft's repository.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that a model brings along.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
@click.option("--no-color", is_flag=True, help="No colours, as with NO_COLOR set.")
@click.pass_context
def convert_command(ctx: click.Context, /, **options: Any) -> None:
    """Make one folder of quantised weights for a target and its draft, and a manifest with the hash of every file.

    An interrupted conversion goes on where it was when the same command runs again.
    """
    terminal = Terminal.of_process(ctx.obj or {}, options["no_color"])
    if options["target"] is None or options["out"] is None:
        raise SettingsError("convert needs --target and --out; see helix-mlx convert --help")
    # Imported here, so that mistakes in the options are told before MLX is loaded.
    from helix_mlx.convert.pair_folder import Wanted, convert_pair, out_folder
    from helix_mlx.convert.recipe import advice
    from helix_mlx.kernels.device import chip_name

    out = out_folder(options["out"], pairs_folder())
    recipe, draft_recipe = _recipes(options)
    if (told := advice(chip_name(), recipe)) is not None:
        terminal.error_line(told)
    wanted = Wanted(
        options["target"], options["draft"], out, recipe, draft_recipe, options["revision"],
        options["draft_revision"], options["trust_remote_code"], (ctx.obj or {}).get("HF_ENDPOINT"),
    )  # fmt: skip
    bars: dict[str, ProgressBar] = {}

    def progress(what: str, done: int, total: int) -> None:
        if what not in bars:
            for bar in bars.values():
                bar.wipe()
            bars[what] = ProgressBar(terminal, what.capitalize())
        bars[what].update(done, total)

    try:
        manifest = convert_pair(wanted, terminal.error_line, progress)
    finally:
        for bar in bars.values():
            bar.wipe()
    if options["as_json"]:
        terminal.line(json.dumps({"folder": str(out), **asdict(manifest)}, ensure_ascii=False))
        return
    terminal.line(terminal.paint(str(out), BOLD))
    for model in manifest.models:
        how = "not quantised"
        if model.quantization is not None:
            how = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in model.quantization.items())
        terminal.line(terminal.paint(f"  {model.role}: {model.source}, {human_bytes(model.bytes)}, {how}", DIM))
    terminal.line(f"Now: helix-mlx chat --pair {options['out']}")


def _recipes(options: dict[str, Any]) -> tuple[Any, Any]:
    """What is done to the target's weights, and to the draft's."""
    from dataclasses import replace

    from helix_mlx.convert.recipe import Recipe

    bits, draft_bits = (None if options[name] is None else int(options[name]) for name in ("bits", "draft_bits"))
    recipe = Recipe(
        bits, options["group_size"], options["mode"], options["recipe"], options["dtype"], options["requantize"]
    )
    return recipe, recipe if draft_bits is None else replace(recipe, bits=draft_bits, mixed=None)
