"""The options that measurements share. Does not import MLX, so that help is fast."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from helix_mlx.config import CPU_KERNELS
from helix_mlx.errors import SettingsError

Decorator = Callable[[Any], Any]


@dataclass(frozen=True)
class ChosenPair:
    """Which pair is measured: a named one, a target and a draft, or one of random weights.

    Raises:
        SettingsError: more than one of them is named.
    """

    pair: str | None = None
    target: str | None = None
    draft: str | None = None
    synthetic: str | None = None
    acceptance: float = 0.8
    cpu_kernels: str = "auto"

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.pair, self.target, self.synthetic)) > 1:
            raise SettingsError("--pair, --target and --synthetic cannot be used together; choose one")

    @classmethod
    def of(cls, options: dict[str, Any]) -> ChosenPair:
        """From the values of `PAIR_OPTIONS`."""
        return cls(**{name: options[name] for name in cls.__dataclass_fields__})


NEW_FILE = click.Path(path_type=Path, dir_okay=False)
"""A file to write; `in_a_folder` checks that its folder exists."""


def in_a_folder(ctx: click.Context, parameter: click.Parameter, file: Path | None) -> Path | None:
    """The same file.

    Raises:
        SettingsError: there is no folder for it, which is told before anything is measured.
    """
    if file is not None and not file.parent.is_dir():
        raise SettingsError(f"cannot write {file}: there is no folder {file.parent}; choose an existing folder")
    return file


PAIR_OPTIONS: tuple[Decorator, ...] = (
    click.option("--pair", metavar="NAME", help="Name of a pair; see `helix-mlx pairs`.  [default: tiny]"),
    click.option("--target", metavar="PATH|REPO", help="Target model, instead of a named pair."),
    click.option("--draft", metavar="PATH|REPO|none", help="Draft model for the target."),
    click.option("--synthetic", metavar="SHAPE/SHAPE", help="Random weights of two shapes, such as llama-8b/llama-1b."),
    click.option(
        "--acceptance", default=0.8, show_default=True, metavar="X", help="Share of drafts to accept with --synthetic."
    ),
    click.option(
        "--cpu-kernels",
        type=click.Choice(CPU_KERNELS),
        default="auto",
        show_default=True,
        help="Use Helix's own CPU kernels.",
    ),
)
OUTPUT_OPTIONS: tuple[Decorator, ...] = (
    click.option("--json", "as_json", is_flag=True, help="Print only the results, as JSON."),
    click.option(
        "--out", type=NEW_FILE, callback=in_a_folder, metavar="FILE", help="Write the results to a file (a receipt)."
    ),
    click.option(
        "--check", is_flag=True, help="Check the results against Helix's own limits; exit with 1 if one is missed."
    ),
)
NOT_MET = 1
"""Exit code of `--check` where a limit is not met."""
FILE_AFTER_JSON = "--json no longer takes a file; use --out FILE to write the results"


def renamed_option(old: str, new: str) -> Decorator:
    """An option under its old name: it is not in the help, and using it names the new one."""

    def refuse(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            raise click.UsageError(f"{old} is now called {new}", ctx)

    return click.option(old, expose_value=False, hidden=True, callback=refuse)


def add_options(*groups: tuple[Decorator, ...]) -> Decorator:
    """A decorator that gives a command options, in the order in which help shows them."""

    def add(command: Any) -> Any:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return add


def pair_options(run: Callable[..., Any]) -> Callable[..., Any]:
    """Give a measurement the options that choose a pair; it gets them as one argument, `chosen`."""

    def command(**options: Any) -> Any:
        chosen = ChosenPair.of(options)
        return run(chosen=chosen, **{name: each for name, each in options.items() if not hasattr(chosen, name)})

    functools.update_wrapper(command, run)  # its own options and its docstring
    return add_options(PAIR_OPTIONS)(command)


def tables_aside(as_json: bool) -> AbstractContextManager[Any]:
    """While it lasts, tables go to standard error where standard output is to have nothing but JSON."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


class FlagCommand(click.Command):
    """A command whose `--json` is a flag; names the new option if a file is given, as earlier versions took one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words of a command line."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if "--json" in given and "extra argument" in error.format_message():
                raise click.UsageError(FILE_AFTER_JSON, ctx) from None
            raise
