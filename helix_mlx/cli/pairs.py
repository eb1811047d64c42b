"""`helix-mlx pairs`: list, download, check, measure and remove pairs."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from helix_mlx.cli.console.group import Group
from helix_mlx.cli.console.progress import ProgressBar
from helix_mlx.cli.console.terminal import BOLD, DIM, Terminal, aligned, human_bytes
from helix_mlx.cli.loading import complete_pair
from helix_mlx.errors import PairError, SettingsError, did_you_mean
from helix_mlx.models.manifest import NAME as MANIFEST
from helix_mlx.models.manifest import read_manifest, verify_files
from helix_mlx.models.pairs import (
    CONTEXT,
    RAM_SIZES,
    NamedPair,
    converted_folder,
    converted_folders,
    converted_pair,
    fits,
    machine_memory,
    named_pair,
    named_pairs,
    source_path,
)


@click.group("pairs", cls=Group, invoke_without_command=True, short_help="List, download, check and remove pairs.")
@click.option("--fetch", metavar="NAME", help="Download a pair now instead of on first use.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@click.option("--no-color", is_flag=True, help="Disable colours, as NO_COLOR does.")
@click.pass_context
def pairs_command(ctx: click.Context, /, fetch: str | None, as_json: bool, no_color: bool) -> None:
    """List the pairs of a target and a draft model, smallest first.

    Pairs that do not fit this machine's memory come last.
    """
    terminal = Terminal.of_process(ctx.obj or {}, no_color)
    if ctx.invoked_subcommand is not None:
        return
    if fetch is not None:
        _fetch(named_pair(fetch), terminal)
    else:
        _list(terminal, as_json)


@pairs_command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@click.pass_context
def list_command(ctx: click.Context, /, as_json: bool) -> None:
    """List the pairs; same as `helix-mlx pairs`."""
    above = ctx.parent.params if ctx.parent else {}
    _list(Terminal.of_process(ctx.obj or {}, above.get("no_color", False)), as_json or above.get("as_json", False))


@pairs_command.command("verify")
@click.argument("name", shell_complete=complete_pair)
@click.pass_context
def verify_command(ctx: click.Context, /, name: str) -> None:
    """Check every file of a converted pair against its hash.

    The built-in pair has no hashes; its files are only checked for being readable and complete.
    """
    terminal = Terminal.of_process(ctx.obj or {}, False)
    packaged = {pair.name: pair for pair in named_pairs() if pair.packaged}
    if name in packaged:
        files = sum(_check_model(source_path(source)) for source in (packaged[name].target, packaged[name].draft))
        terminal.line(f"{name} is built in: all {files} files are readable and complete.")
        return
    folder = _converted(name)
    bar = ProgressBar(terminal, "Reading")
    manifest = read_manifest(folder)
    try:
        verify_files(folder, manifest, bar.update)
    finally:
        bar.wipe()
    terminal.line(f"{folder}: all {len(manifest.files)} files match their hashes.")


@pairs_command.command("remove")
@click.argument("name", shell_complete=complete_pair)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.pass_context
def remove_command(ctx: click.Context, /, name: str, yes: bool) -> None:
    """Delete a converted pair. The models it was made from stay in the Hugging Face cache."""
    terminal = Terminal.of_process(ctx.obj or {}, False)
    folder = _converted(name)
    files = [folder / path for path in read_manifest(folder).files]
    size = sum(file.stat().st_size for file in files if file.is_file())
    if not yes:
        click.confirm(f"Remove {folder}, {human_bytes(size)}?", abort=True)
    # The manifest goes first, so that a half-removed pair is never loaded. Files not listed in it stay.
    (folder / MANIFEST).unlink()
    for file in files:
        file.unlink(missing_ok=True)
    folders = {each for file in files for each in file.parents if folder in each.parents}
    for below in (*sorted(folders, reverse=True), folder):
        with suppress(OSError):
            below.rmdir()
    terminal.line(f"Removed {folder}.")


@pairs_command.command("measure")
@click.argument("name", shell_complete=complete_pair)
@click.option(
    "--prompts", default=4, show_default=True, type=click.IntRange(1), metavar="N", help="Prompts per workload."
)
@click.option(
    "--max-tokens",
    default=64,
    show_default=True,
    type=click.IntRange(2),
    metavar="N",
    help="Maximum tokens per answer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def measure_command(ctx: click.Context, /, name: str, prompts: int, max_tokens: int, as_json: bool) -> None:
    """Measure how many drafts a pair accepts, and the speedup on this machine.

    The results of a converted pair are saved in its manifest.
    """
    terminal = Terminal.of_process(ctx.obj or {}, False)
    report = measure_pair(terminal, name, prompts, max_tokens, tells=not as_json)
    if as_json:
        terminal.line(json.dumps(report))


def measure_pair(terminal: Terminal, name: str, prompts: int, max_tokens: int, *, tells: bool) -> dict[str, Any]:
    """Measure a pair; for a converted one, save the results in its manifest.

    Args:
        terminal: where progress is drawn, and what was found is printed.
        name: of the pair, or its folder.
        prompts: of each workload.
        max_tokens: the longest answer.
        tells: print what was found.

    Returns:
        What was found, as the manifest has it.
    """
    named = named_pair(name)
    from helix_mlx.bench.suite import acceptance
    from helix_mlx.engine.engine import load
    from helix_mlx.kernels.device import chip_name

    bar = ProgressBar(terminal, "Measuring")
    with load(name, notice=terminal.error_line) as engine:
        try:
            found = acceptance.measure(engine, (0.0, 0.7), prompts, max_tokens, bar.update)
        finally:
            bar.wipe()
        promises = acceptance.promises(found, engine.cost_table)
    report = {
        "chip": chip_name(),
        "kept": [each.to_json() for each in found],
        "promises": [asdict(promise) for promise in promises],
    }
    if tells:
        acceptance.show(found, terminal.line)
        terminal.line()
        for promise in promises:
            terminal.line(promise.told)
    if named.converted:
        folder = _converted(name)
        replace(read_manifest(folder), acceptance=report).write(folder)
    return report


def all_pairs(terminal: Terminal) -> list[NamedPair]:
    """The named pairs and the converted ones, smallest first; damaged ones are reported and skipped."""
    pairs = named_pairs()
    for folder in converted_folders():
        try:
            pairs.append(converted_pair(folder.name, folder))
        except PairError as error:
            terminal.error_line(str(error))
    return sorted(pairs, key=lambda pair: pair.memory_bytes)


def _check_model(folder: Path | None) -> int:
    """Read a packaged model's files; return how many there are.

    Raises:
        PairError: one is missing, or is not whole.
    """
    if folder is None:
        raise PairError("the built-in pair is missing; reinstall Helix")
    files = sorted(folder.iterdir())
    missing = {"config.json", "tokenizer.json", "model.safetensors"} - {file.name for file in files}
    if missing:
        raise PairError(f"{folder / min(missing)} is missing; reinstall Helix")
    for file in files:
        try:
            data = file.read_bytes()
            if file.suffix == ".json":
                json.loads(data)
            elif file.suffix == ".safetensors" and len(data) != _weights_size(data):
                raise ValueError(file)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            raise PairError(f"{file} is damaged; reinstall Helix") from None
    return len(files)


def _weights_size(data: bytes) -> int:
    """The size that a safetensors file should have: 8 bytes, the header, and the weights."""
    header = int.from_bytes(data[:8], "little")
    arrays = json.loads(data[8 : 8 + header])
    ends: list[int] = [array["data_offsets"][1] for name, array in arrays.items() if name != "__metadata__"]
    return 8 + header + max(ends)


def _converted(name: str) -> Path:
    folder = converted_folder(name)
    if folder is None:
        meant = did_you_mean(name, [each.name for each in converted_folders()])
        raise SettingsError(f"there is no converted pair {name}{meant}; `helix-mlx pairs` lists all pairs")
    return folder


def fetch_command(pair: NamedPair) -> str:
    """How to get a pair: the download command, or where it is from."""
    if pair.packaged:
        return "built in"
    return "converted here" if pair.converted else f"helix-mlx pairs --fetch {pair.name}"


def is_on_disk(pair: NamedPair) -> bool:
    """Whether a pair is completely on disk."""
    return pair.target_here is not None and (pair.draft == "none" or source_path(pair.draft) is not None)


def _to_json(pair: NamedPair, memory: int) -> dict[str, Any]:
    told = {"memory_bytes": pair.memory_bytes, "ram_gb": pair.ram_gb, "fits": fits(pair, memory)}
    return {**asdict(pair), **told, "on_disk": is_on_disk(pair), "fetch": fetch_command(pair)}


def _list(terminal: Terminal, as_json: bool) -> None:
    pairs, memory = all_pairs(terminal), machine_memory()
    if as_json:
        terminal.line(json.dumps([_to_json(pair, memory) for pair in pairs], indent=2))
    else:
        _print_table(terminal, pairs, memory)


def _print_table(terminal: Terminal, pairs: list[NamedPair], memory: int) -> None:
    lines = aligned([("NAME", "RAM", "TARGET", "DRAFT", "ON DISK"), *(_row(pair) for pair in pairs)])
    terminal.line(lines[0], DIM)
    too_large = False
    for line, pair in zip(lines[1:], pairs, strict=True):
        if not too_large and not fits(pair, memory):
            too_large = True
            terminal.line(f"\nToo large for the {memory / 2**30:.0f} GB of this machine:\n")
        terminal.line(line, DIM if too_large else BOLD)
        if not (pair.packaged or pair.converted):
            for source in (*pair.targets, pair.draft):
                if source != "none":
                    terminal.line(f"  {source}", DIM)
        gate = "; gated: accept the licence on the hub first, then `hf auth login`" if pair.gated else ""
        terminal.line(f"  {pair.note} ({pair.licence}{', unverified' if pair.unverified else ''}{gate})", DIM)
    terminal.line(f"\nRAM: holds the weights and {CONTEXT:,} tokens, and leaves a quarter for the system.")
    if any(pair.unverified for pair in pairs):
        terminal.line("Unverified: names and sizes are from other sources; loading checks they fit.")
    terminal.line("Thinks first: reasons before it answers, so raise --max-tokens.")
    terminal.line(
        "Pairs that are not on disk are downloaded on first use: helix-mlx chat NAME\n"
        "or now: helix-mlx pairs --fetch NAME"
    )


def _row(pair: NamedPair) -> tuple[str, ...]:
    """A pair's line of the table."""
    size = f"{pair.ram_gb} GB" if pair.ram_gb else f"> {RAM_SIZES[-1]} GB"
    draft = human_bytes(pair.draft_bytes)
    if pair.draft == "none":
        draft = "mtp" if pair.head else "n-gram"
    here = "yes" if is_on_disk(pair) else "no"
    return pair.name, size, human_bytes(pair.target_bytes), draft, here


def _fetch(pair: NamedPair, terminal: Terminal) -> None:
    from helix_mlx.models.loader import fetch, fetch_target

    bar = ProgressBar(terminal, "Downloading (MB)")
    try:
        target = fetch_target(pair, terminal.error_line, bar.update)
    finally:
        bar.wipe()
    for source in (target, pair.draft):
        if source != "none":
            terminal.line(f"{source} is in {fetch(source)}")
    terminal.line(f"Next: helix-mlx chat --pair {pair.name}")
