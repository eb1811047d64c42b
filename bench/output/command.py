"""What all measurement commands share: `--json`, `--out` and `--check`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from helix_mlx.bench.output.options import NOT_MET, OUTPUT_OPTIONS, FlagCommand, add_options, tables_aside
from helix_mlx.bench.output.receipt import document, write_output
from helix_mlx.bench.output.tables import Asked, show_limits

Measured = tuple[Any, Sequence[Asked]]
"""Every figure, ready for JSON, and the limits they are checked against."""


def measurement(run: Callable[..., Measured]) -> click.Command:
    """A command that runs a measurement, whose tables go to standard error where JSON is asked for."""

    @click.pass_context
    @functools.wraps(run)
    def command(ctx: click.Context, /, as_json: bool, out: Path | None, check: bool, **options: Any) -> None:
        with tables_aside(as_json):
            figures, asked = run(**options)
            met = show_limits(asked) if check else True
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
        finish(document(f"helix-mlx bench {ctx.info_name}", settings, {"figures": figures}, asked), as_json, out)
        if not met:
            ctx.exit(NOT_MET)

    # A measurement's own options come first in its help.
    command.__click_params__ = [  # type: ignore[attr-defined]
        *add_options(OUTPUT_OPTIONS)(lambda: None).__click_params__,
        *getattr(run, "__click_params__", ()),
    ]
    return click.command(cls=FlagCommand, help=run.__doc__)(command)


def finish(receipt: dict[str, Any], as_json: bool, out: Path | None) -> None:
    """Print and write a receipt, as requested.

    Raises:
        ReceiptError: it cannot be written.
    """
    text = json.dumps(receipt, indent=1, ensure_ascii=False)
    if out is not None:
        write_output(out, (text + "\n").encode())
        click.echo(f"Results written to {out}.", err=True)
    if as_json:
        click.echo(text)
