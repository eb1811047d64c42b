"""`helix-mlx bench`: the benchmark suite and every other measurement, with results as a file."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from helix_mlx.bench.output.options import (
    FILE_AFTER_JSON,
    NEW_FILE,
    NOT_MET,
    OUTPUT_OPTIONS,
    PAIR_OPTIONS,
    ChosenPair,
    Decorator,
    FlagCommand,
    add_options,
    in_a_folder,
    tables_aside,
)
from helix_mlx.cli.console.group import Group
from helix_mlx.cli.console.interrupt import INTERRUPTED
from helix_mlx.cli.console.progress import ProgressBar, ticking
from helix_mlx.cli.console.terminal import BOLD, DIM, ERROR, Terminal, aligned
from helix_mlx.errors import SettingsError

PARTS = {
    "latency": "Single requests on six workloads: mlx-lm, no drafts, every draft length, auto.",
    "throughput": "Concurrent requests, compared with mlx-lm's batching.",
    "memory": "Requests that fit into a fixed amount of KV memory.",
    "exactness": "Check that drafts change no token.",
    "acceptance": "Share of drafts accepted, by workload and compared with mlx-lm's speculation.",
    "kernels": "Cost of each part of a cycle; CPU kernels compared with MLX's.",
}
"""The suite, in the order in which it runs."""
MEASUREMENTS = {
    "first-token": ("studies.first_token", "Time to first token: cold, repeated, and in a second turn."),
    "interference": ("studies.interference", "How long a long prompt delays a running answer."),
    "step-cost": ("studies.step_cost", "One decoding step on paged KV, compared with mlx-lm's batch cache."),
    "pool-size": ("studies.pool_size", "Whether a larger page pool slows a cycle down."),
    "capacity": ("studies.capacity", "Concurrent requests in fixed memory: pages, padding, reservations."),
    "attention": ("studies.attention", "CPU attention kernel compared with gathering pages, and with mlx-lm."),
    "conversion": ("studies.conversion", "Time and memory of a conversion, compared with mlx-lm."),
    "distillation": ("studies.distillation", "What distilling a draft gains."),
    "rollback": ("studies.rollback", "What rolling drafts back costs models with recurrent layers."),
    "mtp": ("suite.heads", "Tokens per pass of a prediction head, beside n-grams and a draft model."),
    "soak": ("studies.soak", "Minutes of random load: leaks, and whether answers stay the same."),
    "replay": ("policy.replay", "Auto compared with fixed draft lengths on recorded drafts (modelled time)."),
    "simulation": ("policy.simulation", "Modelled gain of auto on Macs, from published measurements."),
}
"""All other measurements: a module of `helix_mlx.bench` whose `main` is the command, and its help."""
WORKLOADS = ("code", "edit", "chat", "prose", "json", "summary")
SCOPE_OPTIONS: tuple[Decorator, ...] = (
    click.option("--quick", is_flag=True, help="Shorter run: about a minute with the built-in pair."),
    click.option(
        "--workload",
        "workloads",
        multiple=True,
        type=click.Choice(WORKLOADS),
        help="Run only this workload; repeatable.",
    ),
    click.option(
        "--temperature",
        "temperatures",
        multiple=True,
        type=float,
        metavar="X",
        help="Run only this temperature; repeatable.",
    ),
    click.option(
        "--context",
        "contexts",
        multiple=True,
        type=click.IntRange(1),
        metavar="N",
        help="Prompt length in tokens; repeatable.",
    ),
    click.option(
        "--arm", "arms", multiple=True, metavar="NAME", help='Run only this arm, such as "helix K=2"; repeatable.'
    ),
    click.option("--repeats", type=click.IntRange(1), metavar="N", help="Prompts per workload."),
    click.option("--max-tokens", type=click.IntRange(2), metavar="N", help="Maximum tokens per answer."),
    click.option("--rest", "rest_s", type=click.FloatRange(0), metavar="SECONDS", help="Pause before each answer."),
)
SHOWN_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "--plot", "plot_file", type=NEW_FILE, callback=in_a_folder, metavar="FILE.png", help="Plot the speeds."
    ),
    click.option("--no-color", is_flag=True, help="Disable colours, as NO_COLOR does."),
)
suite_options = add_options(PAIR_OPTIONS, SCOPE_OPTIONS, OUTPUT_OPTIONS, SHOWN_OPTIONS)
"""Options of the suite and of each of its parts."""


class Bench(Group):
    """The suite and every measurement by name; each is imported when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order to show them."""
        return [*PARTS, *MEASUREMENTS, "list", "compare"]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The measurement named by the first word."""
        if ctx.params.get("as_json") and args[0] not in self.list_commands(ctx):
            raise click.UsageError(FILE_AFTER_JSON, ctx)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, or None."""
        if cmd_name in PARTS:
            return part_command(cmd_name)
        if cmd_name in MEASUREMENTS:
            command: click.Command = import_module(f"helix_mlx.bench.{MEASUREMENTS[cmd_name][0]}").main
            return command
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the measurements with their help, without importing any."""
        with formatter.section("Measurements"):
            formatter.write_dl([*PARTS.items(), *((name, text) for name, (_, text) in MEASUREMENTS.items())])
        with formatter.section("Commands"):
            formatter.write_dl([("list", "List all measurements."), ("compare", "Compare two receipts.")])


@click.group("bench", cls=Bench, invoke_without_command=True, short_help="Measure speed, memory and exactness.")
@suite_options
@click.pass_context
def bench_command(ctx: click.Context, /, **options: Any) -> None:
    """Benchmark this machine: the whole suite, or one measurement by name.

    Speeds are compared with mlx-lm's on the same weights in the same run. Ctrl-C keeps what was measured so far.
    """
    if ctx.invoked_subcommand is None:
        run_suite(ctx, None, options)
        return
    given = [name for name in options if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT]
    words = [parameter.opts[0] for parameter in ctx.command.params if parameter.name in given]
    if words:
        name = ctx.invoked_subcommand
        raise SettingsError(f"{', '.join(words)} before {name} has no effect; write: bench {name} {words[0]} ...")


def part_command(name: str) -> click.Command:
    """The command of one part of the suite."""

    @click.command(name, cls=FlagCommand, help=PARTS[name])
    @suite_options
    @click.pass_context
    def command(ctx: click.Context, /, **options: Any) -> None:
        run_suite(ctx, name, options)

    return command


@bench_command.command("list")
@click.pass_context
def list_command(ctx: click.Context, /) -> None:
    """List all measurements."""
    rows = [*PARTS.items(), *((name, text) for name, (_, text) in MEASUREMENTS.items())]
    for line in aligned(rows):
        click.echo(line)


@bench_command.command("compare")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
def compare_command(first: Path, second: Path) -> None:
    """Compare two receipts: what both measured, and the ratio of the second to the first."""
    from helix_mlx.bench.output.compare import compared, read_receipt

    for line in compared(read_receipt(first), read_receipt(second)):
        click.echo(line)


def run_suite(ctx: click.Context, part: str | None, options: dict[str, Any]) -> None:
    """Run the suite, or a part of it, and report the results."""
    terminal = Terminal.of_process(ctx.obj or {}, options["no_color"])
    chosen = ChosenPair.of(options)
    if options["plot_file"] is not None and part not in (None, "latency"):
        raise SettingsError("--plot shows latency; use it with bench or bench latency")
    if options["arms"] and part not in (None, "latency"):
        raise SettingsError("--arm applies to latency only; use it with bench or bench latency")
    # Imported here, so that errors in the options are reported before MLX is loaded.
    from helix_mlx.bench.fixtures.synthetic import described
    from helix_mlx.bench.output import plot
    from helix_mlx.bench.output.receipt import Receipt

    if options["plot_file"] is not None:
        plot.check_matplotlib()
    made_up = described(chosen.synthetic, chosen.acceptance) if chosen.synthetic else None
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    receipt = Receipt(" ".join(["helix-mlx", *sys.argv[1:]]), settings, made_up)
    shown = replace(terminal, out=sys.stderr if options["as_json"] else sys.stdout)
    done: list[str] = []
    try:
        with tables_aside(options["as_json"]):
            _run(shown, [part] if part else list(PARTS), options, receipt, done)
        receipt.complete = True
    except KeyboardInterrupt:
        shown.line()
        shown.error_line(f"Stopped. Completed: {', '.join(done) or 'none'}.")
    finally:  # what was measured is not lost, whatever went wrong
        if receipt.parts or receipt.complete:
            _write(receipt, options, plot)
    met = _finish(shown, receipt, options, whole=part is None)
    if not receipt.complete or not met:
        ctx.exit(INTERRUPTED if not receipt.complete else NOT_MET)


def _run(terminal: Terminal, wanted: list[str], options: dict[str, Any], receipt: Any, done: list[str]) -> None:
    """Load the models and run one part after the other; finished ones are added to `done`."""
    from helix_mlx.bench.fixtures.loading import beside_mlx_lm
    from helix_mlx.bench.suite.parts import PARTS as RUNS
    from helix_mlx.bench.suite.parts import Run, Scope

    names = ("quick", "workloads", "temperatures", "contexts", "repeats", "max_tokens", "rest_s", "arms")
    scope = Scope(**{name: options[name] for name in names})
    with ExitStack() as stack:
        with ticking(terminal, "Loading"):
            ours, theirs = stack.enter_context(beside_mlx_lm(ChosenPair.of(options), terminal.error_line))
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


def _finish(terminal: Terminal, receipt: Any, options: dict[str, Any], whole: bool) -> bool:
    """Print the three-line summary, and the limits with --check; return whether all are met."""
    from helix_mlx.bench.output.tables import show_limits
    from helix_mlx.bench.output.verdict import verdict

    if whole and receipt.complete:
        terminal.line("")
        for line in verdict(receipt.parts, receipt.synthetic is not None):
            terminal.line(terminal.paint(line, BOLD))
    words = terminal.paint("NOT MET", ERROR), terminal.paint("met    ", DIM)
    return show_limits(receipt.asked, terminal.line, words) if options["check"] else True


def _write(receipt: Any, options: dict[str, Any], plot: Any) -> None:
    """Print and write the requested outputs."""
    from helix_mlx.bench.output.command import finish

    finish(receipt.to_json(), options["as_json"], options["out"])
    if options["plot_file"] is not None and receipt.parts.get("latency"):
        plot.draw(receipt.to_json(), options["plot_file"])
        click.echo(f"Plot written to {options['plot_file']}.", err=True)
