"""`helix-mlx bench`: what speculation is worth on this machine, beside mlx-lm, with a receipt."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from helix_mlx.cli.console.interrupt import INTERRUPTED
from helix_mlx.cli.console.progress import ProgressBar, ticking
from helix_mlx.cli.console.terminal import BOLD, DIM, ERROR, Terminal
from helix_mlx.config import CPU_KERNELS
from helix_mlx.errors import SettingsError

PARTS = ("latency", "throughput", "memory", "exactness", "acceptance", "kernels")
WORKLOADS = ("code", "edit", "chat", "prose", "json", "summary")


@click.command("bench", short_help="Measure speed, memory and exactness.")
@click.argument("part", required=False, type=click.Choice(PARTS))
@click.option("--pair", metavar="NAME", help="A named pair, see `helix-mlx pairs`.  [default: tiny]")
@click.option("--target", metavar="PATH|REPO", help="A target of your own, instead of a named pair.")
@click.option("--draft", metavar="PATH|REPO|none", help="A draft for it.")
@click.option("--synthetic", metavar="SHAPE/SHAPE", help="Random weights, such as llama-8b/llama-1b or tinyllama/160m.")
@click.option("--acceptance", default=0.8, show_default=True, metavar="X", help="Drafts kept with --synthetic.")
@click.option("--quick", is_flag=True, help="Less of everything: under a minute with the built-in pair.")
@click.option("--workload", "workloads", multiple=True, type=click.Choice(WORKLOADS), help="May be repeated.")
@click.option("--temperature", "temperatures", multiple=True, type=float, metavar="X", help="May be repeated.")
@click.option(
    "--context",
    "contexts",
    multiple=True,
    type=click.IntRange(1),
    metavar="N",
    help="Prompts of N tokens; may be repeated.",
)
@click.option("--arm", "arms", multiple=True, metavar="NAME", help='Latency of "helix K=2", say; may be repeated.')
@click.option("--repeats", type=click.IntRange(1), metavar="N", help="Prompts of each workload.")
@click.option("--max-tokens", type=click.IntRange(2), metavar="N", help="Longest answer.")
@click.option("--rest", "rest_s", type=click.FloatRange(0), metavar="SECONDS", help="Before each answer.")
@click.option("--cpu-kernels", type=click.Choice(CPU_KERNELS), default="auto", show_default=True, help="As in chat.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write every figure.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw the speeds.")
@click.option("--no-color", is_flag=True, help="No colours, as with NO_COLOR set.")
@click.pass_context
def bench_command(ctx: click.Context, /, part: str | None, **options: Any) -> None:
    """Measure this machine: all parts, or one of them.

    Every figure stands beside mlx-lm's from the same run, on the same weights. Ctrl-C keeps what was measured.
    """
    terminal = Terminal.of_process(ctx.obj or {}, options["no_color"])
    if sum(options[name] is not None for name in ("pair", "target", "synthetic")) > 1:
        raise SettingsError("--pair, --target and --synthetic exclude each other; name one of them")
    if options["plot_file"] is not None and part not in (None, "latency"):
        raise SettingsError("--plot draws speeds; run bench or bench latency with it")
    if options["arms"] and part not in (None, "latency"):
        raise SettingsError(
            "--arm chooses ways to answer whose latency is measured; run bench or bench latency with it"
        )
    # Imported here, so that mistakes in the options are told before MLX is loaded.
    from helix_mlx.bench.fixtures.synthetic import described
    from helix_mlx.bench.output import plot
    from helix_mlx.bench.output.receipt import Receipt

    if options["plot_file"] is not None:
        plot.check_matplotlib()
    made_up = described(options["synthetic"], options["acceptance"]) if options["synthetic"] else None
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    receipt = Receipt(" ".join(["helix-mlx", *sys.argv[1:]]), settings, made_up)
    done: list[str] = []
    try:
        _run(terminal, [part] if part else list(PARTS), options, receipt, done)
        receipt.complete = True
    except KeyboardInterrupt:
        terminal.line()
        terminal.error_line(f"Stopped. Whole parts: {', '.join(done) or 'none'}.")
    _finish(terminal, receipt, options, plot)
    if not receipt.complete:
        ctx.exit(INTERRUPTED)


def _run(terminal: Terminal, wanted: list[str], options: dict[str, Any], receipt: Any, done: list[str]) -> None:
    """Load, and run one part after the other; `done` tells which have ended."""
    from helix_mlx.bench.suite.parts import PARTS as RUNS
    from helix_mlx.bench.suite.parts import Chosen, Run, Scope, loaded

    chosen = Chosen(**{n: options[n] for n in ("pair", "target", "draft", "synthetic", "acceptance", "cpu_kernels")})
    names = ("quick", "workloads", "temperatures", "contexts", "repeats", "max_tokens", "rest_s", "arms")
    scope = Scope(**{name: options[name] for name in names})
    with ExitStack() as stack:
        with ticking(terminal, "Loading"):
            ours, theirs = stack.enter_context(loaded(chosen, terminal.error_line))
        receipt.describe(ours)
        terminal.line(terminal.paint(f"{ours.name} on {receipt.to_json()['machine']['chip']}", BOLD))
        if receipt.synthetic:
            terminal.line(terminal.paint(f"SYNTHETIC: {receipt.synthetic}", ERROR))
        for name in wanted:
            bar = ProgressBar(terminal, f"Measuring {name}")

            def line(text: str, bar: ProgressBar = bar) -> None:
                bar.wipe()
                terminal.line(text)

            try:
                RUNS[name](Run(ours, theirs, scope, receipt, line, bar.update))
            finally:
                bar.wipe()
            done.append(name)


def _finish(terminal: Terminal, receipt: Any, options: dict[str, Any], plot: Any) -> None:
    """Say what was asked for and what came of it, and write the files."""
    if receipt.asked:
        terminal.line("\nAsked for, and measured")
    for line in receipt.asked:
        word = terminal.paint("met    ", DIM) if line.met else terminal.paint("NOT MET", ERROR)
        terminal.line(f"{word} {line.what}: asked {line.asked}, measured {line.measured}")
    if options["json_file"] is not None:
        receipt.write(options["json_file"])
        terminal.error_line(f"Every figure is in {options['json_file']}.")
    if options["plot_file"] is not None and receipt.parts.get("latency"):
        plot.draw(receipt.to_json(), options["plot_file"])
        terminal.error_line(f"The picture is {options['plot_file']}.")
