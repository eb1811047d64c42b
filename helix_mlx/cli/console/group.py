"""A command with commands of its own, which says what an unknown one may have been meant to be."""

from __future__ import annotations

import click

from helix_mlx.errors import did_you_mean


class Group(click.Group):
    """As click's; not all of its versions know what was meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the words begin with.

        Raises:
            click.UsageError: there is none of that name.
        """
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            raise click.UsageError(f"No such command '{name}'{did_you_mean(name, known)}", ctx)
        return super().resolve_command(ctx, args)
