"""The options that measurements share, and what their words mean. Imports no MLX, so that help needs none."""

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
            raise SettingsError("--pair, --target and --synthetic exclude each other; name one of them")

    @classmethod
    def of(cls, options: dict[str, Any]) -> ChosenPair:
        """From the values of `PAIR_OPTIONS`."""
        return cls(**{name: options[name] for name in cls.__dataclass_fields__})


NEW_FILE = click.Path(path_type=Path, dir_okay=False)
"""A file to write; see that there is a place for it, by `in_a_folder`."""


def in_a_folder(ctx: click.Context, parameter: click.Parameter, file: Path | None) -> Path | None:
    """The same file.

    Raises:
        SettingsError: there is no folder for it, which is told before anything is measured.
    """
    if file is not None and not file.parent.is_dir():
        raise SettingsError(f"cannot write {file}: there is no folder {file.parent}; name a file in one that exists")
    return file


PAIR_OPTIONS: tuple[Decorator, ...] = (
    click.option("--pair", metavar="NAME", help="A named pair, see `helix-mlx pairs`.  [default: tiny]"),
    click.option("--target", metavar="PATH|REPO", help="A target of your own, instead of a named pair."),
    click.option("--draft", metavar="PATH|REPO|none", help="A draft for it."),
    click.option("--synthetic", metavar="SHAPE/SHAPE", help="Random weights, such as llama-8b/llama-1b."),
    click.option("--acceptance", default=0.8, show_default=True, metavar="X", help="Drafts kept with --synthetic."),
    click.option(
        "--cpu-kernels", type=click.Choice(CPU_KERNELS), default="auto", show_default=True, help="As in chat."
    ),
)
OUTPUT_OPTIONS: tuple[Decorator, ...] = (
    click.option("--json", "as_json", is_flag=True, help="Print the receipt, and nothing else, as JSON."),
    click.option("--out", type=NEW_FILE, callback=in_a_folder, metavar="FILE", help="Write a receipt."),
    click.option("--check", is_flag=True, help="Show Helix's own limits; exit code 1 where one is not met."),
)
NOT_MET = 1
"""Exit code of `--check` where a limit is not met."""
FILE_AFTER_JSON = "--json takes no file any more; --out FILE writes the receipt"


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
    """A command that takes `--json` as a flag, and says so to who names a file, as earlier versions took one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words of a command line."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if "--json" in given and "extra argument" in error.format_message():
                raise click.UsageError(FILE_AFTER_JSON, ctx) from None
            raise
