"""What every measurement shares at the command line: its command, `--json`, `--out` and `--check`."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import click

from helix_mlx.bench.output.flags import FlagCommand
from helix_mlx.bench.output.receipt import document, write_output
from helix_mlx.bench.output.tables import Asked, show_all

Measured = tuple[Any, Sequence[Asked]]
"""Every figure, ready for JSON, and what was asked of them."""
NOT_MET = 1
"""Exit code of `--check` where a limit is not met."""


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command the options for what it prints and writes."""
    for option in (
        click.option("--check", is_flag=True, help="Show Helix's own limits; exit code 1 where one is not met."),
        click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a receipt."),
        click.option("--json", "as_json", is_flag=True, help="Print the receipt, and nothing else, as JSON."),
    ):
        command = option(command)
    return command


def measurement(run: Callable[..., Measured]) -> click.Command:
    """A command that runs a measurement, whose tables go to standard error where JSON is asked for."""

    @output_options
    @click.pass_context
    @functools.wraps(run)
    def command(ctx: click.Context, /, as_json: bool, out: Path | None, check: bool, **options: Any) -> None:
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            figures, asked = run(**options)
            met = show_all(asked) if check else True
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
        receipt = document(f"helix-mlx bench {ctx.info_name}", settings, {"figures": figures}, asked)
        finish(receipt, as_json, out)
        if not met:
            ctx.exit(NOT_MET)

    return click.command(cls=FlagCommand, help=run.__doc__)(command)


def finish(receipt: dict[str, Any], as_json: bool, out: Path | None) -> None:
    """Print and write a receipt, as far as that was asked for.

    Raises:
        ReceiptError: it cannot be written.
    """
    text = json.dumps(receipt, indent=1, ensure_ascii=False)
    if out is not None:
        write_output(out, (text + "\n").encode())
        click.echo(f"Every figure is in {out}.", err=True)
    if as_json:
        click.echo(text)
