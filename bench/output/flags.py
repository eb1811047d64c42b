"""A command whose `--json` is a flag, and which says so to who gives it a file, as earlier versions took one."""

from __future__ import annotations

import click


class FlagCommand(click.Command):
    """As click's, but for the words of a mistake that many will make."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words of a command line."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if "--json" in given and "extra argument" in error.format_message():
                raise click.UsageError("--json takes no file any more; --out FILE writes the receipt", ctx) from None
            raise
