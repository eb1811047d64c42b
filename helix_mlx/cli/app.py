"""The program: its table of commands, imported on demand, and how errors are shown."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

from helix_mlx import __version__
from helix_mlx.cli.console.group import Group
from helix_mlx.cli.console.interrupt import INTERRUPTED
from helix_mlx.cli.console.terminal import open_streams, silence
from helix_mlx.errors import HelixError

COMMANDS = {
    "chat": "helix_mlx.cli.chat",
    "generate": "helix_mlx.cli.generate",
    "bench": "helix_mlx.cli.bench",
    "convert": "helix_mlx.cli.convert",
    "pairs": "helix_mlx.cli.pairs",
    "doctor": "helix_mlx.cli.doctor",
}
"""The module of each command; in it, the command is called NAME_command."""

UNWRITTEN = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""The errors that a failed write to a standard stream raises."""
USER_ERROR = 2
UNWRITABLE = 1


class Program(Group):
    """A group that imports commands on demand and reports every user error in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands, in the order to show them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, or None."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[cmd_name]), f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command line and exit: 0 after success, 2 after a user's mistake, 130 after Ctrl-C."""
        open_streams()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal may not support every character that a model writes
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
            sys.stdout.flush()
        except HelixError as error:
            code = _fail(str(error))
        except click.ClickException as error:
            code = _fail(_with_hint(error))
        except (click.Abort, KeyboardInterrupt):
            code = INTERRUPTED
        except OSError as error:
            if error.errno not in UNWRITTEN:
                raise
            # A closed pipe is not an error worth a message; a full disk is.
            code = UNWRITABLE if error.errno == errno.EPIPE else _fail(f"cannot write: {error.strerror}")
            silence(sys.stdout)
        sys.exit(code if isinstance(code, int) else 0)


@click.group(
    cls=Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="helix-mlx")
@click.pass_context
def program(ctx: click.Context, /) -> None:
    """Exact speculative decoding of language models on MLX.

    A small draft model proposes tokens, and the large target model checks them in one pass. The output has the same
    distribution as the target's alone: bit for bit on a CPU, up to ties within its arithmetic on a GPU.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> None:
    """The `helix-mlx` program.

    Args:
        arguments: the words after the program's name; by default the process's own.
        environment: where NO_COLOR and the like are read.
    """
    program.main(args=arguments, prog_name="helix-mlx", obj=environment)


def _fail(message: str) -> int:
    try:
        click.echo(f"Error: {' '.join(message.split())}", err=True)
    except OSError:
        silence(sys.stderr)
    return USER_ERROR


def _with_hint(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return message
    return f"{message}{' See' if message.endswith('?') else '; see'} {context.command_path} --help"
