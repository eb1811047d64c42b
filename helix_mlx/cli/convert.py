"""`helix-mlx convert`: make a pair from checkpoints on the hub or on disk."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from helix_mlx.cli.console.group import Group
from helix_mlx.cli.console.progress import ProgressBars
from helix_mlx.cli.console.terminal import BOLD, DIM, Terminal, aligned, human_bytes
from helix_mlx.cli.distill import distill_command
from helix_mlx.cli.pairs import measure_pair
from helix_mlx.errors import SettingsError
from helix_mlx.models.pairs import pairs_folder

PROMPTS, MAX_TOKENS = 2, 64
"""How a new pair is measured: prompts per workload, and tokens per answer."""
BITS = ("2", "3", "4", "5", "6", "8")


@click.group("convert", cls=Group, invoke_without_command=True, short_help="Make a pair from two checkpoints.")
@click.option("--target", metavar="PATH|REPO", help="Target (large) model.")
@click.option("--draft", metavar="PATH|REPO", help="Draft (small) model; optional.")
@click.option("--out", metavar="NAME|DIR", help="Name or folder of the new pair.")
@click.option("--bits", type=click.Choice(BITS), help="Bits per weight.  [default: 4, or the mode's]")
@click.option("--draft-bits", type=click.Choice(BITS), help="Bits per weight of the draft.  [default: as the target]")
@click.option("--group-size", type=int, metavar="N", help="Weights per scale.  [default: 64, or the mode's]")
@click.option(
    "--mode",
    default="affine",
    show_default=True,
    metavar="MODE",
    help="Quantisation: affine, mxfp4, mxfp8, nvfp4 or float (none).",
)
@click.option("--recipe", metavar="NAME", help="Mixed precision: mixed_2_6, mixed_3_4, mixed_3_6 or mixed_4_6.")
@click.option("--dtype", metavar="TYPE", help="Type of unquantised weights: float16, bfloat16 or float32.")
@click.option("--requantize", is_flag=True, help="Quantise weights again that are already quantised.")
@click.option("--revision", metavar="REV", help="Revision of the target's repository.")
@click.option("--draft-revision", metavar="REV", help="Revision of the draft's repository.")
@click.option("--no-measure", is_flag=True, help="Skip measuring how many drafts are accepted.")
@click.option("--suggest-draft", metavar="PATH|REPO", help="List the drafts that fit this target, and exit.")
@click.option("--trust-remote-code", is_flag=True, help="Allow models to run Python code of their own.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
@click.option("--no-color", is_flag=True, help="Disable colours, as NO_COLOR does.")
@click.pass_context
def convert_command(ctx: click.Context, /, **options: Any) -> None:
    """Quantise a target and its draft into one folder, with a manifest of file hashes.

    To resume an interrupted conversion, run the same command again.
    """
    if ctx.invoked_subcommand is not None:
        return
    terminal = Terminal.of_process(ctx.obj or {}, options["no_color"])
    if options["suggest_draft"] is not None:
        _suggest(terminal, options["suggest_draft"], options["as_json"])
        return
    if options["target"] is None or options["out"] is None:
        raise SettingsError("convert needs --target and --out; see helix-mlx convert --help")
    # Imported here, so that errors in the options are reported before MLX is loaded.
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
    with ProgressBars(terminal) as bars:
        manifest = convert_pair(wanted, bars.line, bars.update)
    drafts = manifest.draft is not None or manifest.holds_head
    measures = drafts and not options["no_measure"]
    if options["as_json"]:
        report = measure_pair(terminal, str(out), PROMPTS, MAX_TOKENS, tells=False) if measures else None
        data = {"folder": str(out), **asdict(manifest), "acceptance": report}
        terminal.line(json.dumps(data, ensure_ascii=False))
        return
    terminal.line(terminal.paint(str(out), BOLD))
    for model in manifest.models:
        how = "not quantised"
        if model.quantization is not None:
            how = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in model.quantization.items())
        terminal.line(terminal.paint(f"  {model.role}: {model.source}, {human_bytes(model.bytes)}, {how}", DIM))
    if measures:
        measure_pair(terminal, str(out), PROMPTS, MAX_TOKENS, tells=True)
    terminal.line(f"Next: helix-mlx chat --pair {options['out']}")


convert_command.add_command(distill_command)


def _suggest(terminal: Terminal, target: str, as_json: bool) -> None:
    """Print the drafts that fit a target, best first."""
    from helix_mlx.convert.draft_search import suggest_drafts

    found = suggest_drafts(target, terminal.error_line)
    if as_json:
        terminal.line(json.dumps([asdict(each) for each in found]))
        return
    rows = [("DRAFT", "SIZE", "% OF TARGET", "VOCABULARY", "TOKENS/CYCLE", "ON DISK")]
    for each in found:
        fits = each.vocabulary if each.vocabulary != "shared" else f"{each.shared:.0%} shared"
        size = "-" if each.size is None else f"{each.size:.0%}"
        kept = "-" if each.tokens_per_cycle is None else f"{each.tokens_per_cycle:.2f}"
        rows.append((each.draft, human_bytes(each.bytes), size, fits, kept, "yes" if each.here else "no"))
    head, *lines = aligned(rows)
    terminal.line(head, DIM)
    for line in lines:
        terminal.line(line)
    terminal.line(f"\nNext: helix-mlx convert --target {target} --draft {found[0].draft} --out NAME")


def _recipes(options: dict[str, Any]) -> tuple[Any, Any]:
    """The recipes for the target's and the draft's weights."""
    from dataclasses import replace

    from helix_mlx.convert.recipe import Recipe

    bits, draft_bits = (None if options[name] is None else int(options[name]) for name in ("bits", "draft_bits"))
    recipe = Recipe(
        bits, options["group_size"], options["mode"], options["recipe"], options["dtype"], options["requantize"]
    )
    return recipe, recipe if draft_bits is None else replace(recipe, bits=draft_bits, mixed=None)
