"""A command group that suggests a name for an unknown command."""

from __future__ import annotations

import click

from helix_mlx.errors import did_you_mean


class Group(click.Group):
    """Like click's, which suggests names only in some versions."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command named by the first word.

        Raises:
            click.UsageError: there is none of that name.
        """
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            raise click.UsageError(f"No such command '{name}'{did_you_mean(name, known)}", ctx)
        return super().resolve_command(ctx, args)
