"""`helix-mlx pairs`: the named pairs, what they take, whether they are here, and how to fetch one."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from helix_mlx.cli.terminal import BOLD, DIM, Terminal
from helix_mlx.models.pairs import NamedPair, named_pair, named_pairs, source_path


@click.command("pairs")
@click.option("--fetch", metavar="NAME", help="Fetch a pair now, instead of when it is first used.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@click.option("--no-color", is_flag=True, help="No colours, as with NO_COLOR set.")
@click.pass_context
def pairs_command(ctx: click.Context, /, fetch: str | None, as_json: bool, no_color: bool) -> None:
    """List the named pairs: a target and a draft that belong together."""
    terminal = Terminal.of_process(ctx.obj or {}, no_color)
    if fetch is not None:
        _fetch(named_pair(fetch), terminal)
    elif as_json:
        terminal.line(json.dumps([_to_json(pair) for pair in named_pairs()], indent=2))
    else:
        _print_table(terminal)


def fetch_command(pair: NamedPair) -> str:
    """The command that brings a pair to this machine."""
    return "comes with Helix" if pair.packaged else f"helix-mlx pairs --fetch {pair.name}"


def is_on_disk(pair: NamedPair) -> bool:
    """Whether nothing of a pair has to be fetched."""
    return all(source_path(source) is not None for source in (pair.target, pair.draft))


def human_bytes(count: int) -> str:
    """A number of bytes for people, in powers of ten as disks are sold."""
    if count >= 10**9:
        return f"{count / 10**9:.1f} GB"
    return f"{count / 10**6:.1f} MB" if count < 10**7 else f"{count / 10**6:.0f} MB"


def _to_json(pair: NamedPair) -> dict[str, Any]:
    return {**asdict(pair), "on_disk": is_on_disk(pair), "fetch": fetch_command(pair)}


def _print_table(terminal: Terminal) -> None:
    pairs = named_pairs()
    rows = [("NAME", "TARGET", "DRAFT", "ON DISK", "FETCH")]
    for pair in pairs:
        sizes = (human_bytes(pair.target_bytes), human_bytes(pair.draft_bytes))
        rows.append((pair.name, *sizes, "yes" if is_on_disk(pair) else "no", fetch_command(pair)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    terminal.line(lines[0], DIM)
    for line, pair in zip(lines[1:], pairs, strict=True):
        terminal.line(line, BOLD)
        gate = "; gated: accept the licence on the hub first, then `hf auth login`" if pair.gated else ""
        if not pair.packaged:
            terminal.line(f"  {pair.target}\n  {pair.draft}", DIM)
        terminal.line(f"  {pair.note} ({pair.licence}{gate})", DIM)
    terminal.line("\nA pair that is not here is fetched when it is first used: helix-mlx chat --pair NAME")


def _fetch(pair: NamedPair, terminal: Terminal) -> None:
    from helix_mlx.models.loader import fetch

    for source in (pair.target, pair.draft):
        terminal.line(f"{source} is in {fetch(source)}")
    terminal.line(f"Now: helix-mlx chat --pair {pair.name}")
