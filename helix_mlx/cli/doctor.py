"""`helix-mlx doctor`: the machine, the versions, the kernels in use, and a self-test."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import click

from helix_mlx import __version__
from helix_mlx.cli.console.terminal import BOLD, DIM, ERROR, Terminal, human_bytes
from helix_mlx.cli.pairs import is_on_disk
from helix_mlx.errors import HelixError
from helix_mlx.models.pairs import machine_memory, named_pairs

CHECK_PROMPT = "The sun"
CHECK_TOKENS = 24
PACKAGES = ("mlx", "mlx-lm", "nanobind", "numpy", "transformers", "huggingface-hub")


@dataclass(frozen=True)
class Check:
    """One check: whether it passed, and a short comment."""

    name: str
    holds: bool
    told: str


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--no-color", is_flag=True, help="Disable colours, as NO_COLOR does.")
@click.pass_context
def doctor_command(ctx: click.Context, /, as_json: bool, no_color: bool) -> None:
    """Show device, versions, kernels and local pairs, and test that it works.

    The test answers a prompt with the built-in pair, with and without drafts, and compares the two. Exits with 1 if it
    fails.
    """
    terminal = Terminal.of_process(ctx.obj or {}, no_color)
    report: dict[str, Any] = {"helix_mlx": __version__, "python": platform.python_version(), "versions": versions()}
    report["device"] = device()
    report["pairs_on_disk"] = [pair.name for pair in named_pairs() if is_on_disk(pair)]
    report["kernels"], checks = examine(terminal)
    report["checks"] = [vars(check) for check in checks]
    if as_json:
        terminal.line(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _print_report(report, checks, terminal)
    if not all(check.holds for check in checks):
        ctx.exit(1)


def versions() -> dict[str, str | None]:
    """The versions of the main packages; None if not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def device() -> dict[str, Any]:
    """The device that models run on: kind, chip, memory and recommended working set."""
    import mlx.core as mx

    from helix_mlx.kernels.device import chip_name, on_cpu

    info = mx.device_info()
    return {
        "device": "cpu" if on_cpu() else "gpu",
        "chip": chip_name(),
        "memory_bytes": info.get("memory_size") or machine_memory(),
        "working_set_bytes": info.get("max_recommended_working_set_size"),
        "system": platform.platform(),
    }


def examine(terminal: Terminal) -> tuple[dict[str, Any], list[Check]]:
    """Load the built-in pair as a chat would, and compare an answer with and without drafts."""
    from helix_mlx.config import EngineConfig
    from helix_mlx.engine.engine import load

    try:
        with load(config=EngineConfig(calibrate=False), notice=terminal.error_line) as engine:
            kernels = engine.pair.kernels
            in_use: dict[str, Any] = {**kernels.settings(), "reason": kernels.reason or "compiled for this machine"}
            plain = engine.generate(CHECK_PROMPT, max_tokens=CHECK_TOKENS, temperature=0, draft_tokens=0)
            drafted = engine.generate(CHECK_PROMPT, max_tokens=CHECK_TOKENS, temperature=0, draft_tokens=4)
    except HelixError as error:
        return {}, [Check("built-in pair loads", False, str(error))]
    same = plain.tokens == drafted.tokens
    speeds = f"{plain.stats.tokens_per_s:.0f} tokens/s plain, {drafted.stats.tokens_per_s:.0f} with the draft"
    return in_use, [
        Check("built-in pair loads", True, engine.name),
        Check("drafts do not change the answer", same, speeds if same else "the answers differ; please report this"),
    ]


def _print_report(report: dict[str, Any], checks: list[Check], terminal: Terminal) -> None:
    found = report["device"]
    kernels = report["kernels"]
    rows = [
        ("helix-mlx", f"{report['helix_mlx']}, Python {report['python']}, {found['system']}"),
        ("versions", ", ".join(f"{name} {version or 'missing'}" for name, version in report["versions"].items())),
        ("device", f"{found['device']}: {found['chip']}"),
        ("memory", _bytes(found["memory_bytes"])),
        ("working set", _bytes(found["working_set_bytes"])),
        ("CPU kernels", _kernels(kernels)),
        ("local pairs", ", ".join(report["pairs_on_disk"]) or "none"),
    ]
    for name, told in rows:
        terminal.line(f"{terminal.paint(name.ljust(12), BOLD)} {told}")
    for check in checks:
        word = terminal.paint("ok", DIM) if check.holds else terminal.paint("FAILS", ERROR)
        terminal.line(f"{terminal.paint('check'.ljust(12), BOLD)} {check.name}: {word} ({check.told})")


def _bytes(count: int | None) -> str:
    return human_bytes(count) if count else "all memory (the device reports no limit)"


def _kernels(kernels: dict[str, Any]) -> str:
    if not kernels:
        return "not checked"
    form, threads = kernels["cpu_kernels"], kernels["cpu_threads"]
    return f"off: {kernels['reason']}" if form == "off" else f"{form}, {threads} threads: {kernels['reason']}"
