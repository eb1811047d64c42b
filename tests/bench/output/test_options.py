"""Options that several measurements take are one and the same option."""

from __future__ import annotations

import sys

import click
import pytest

from helix_mlx.bench.output.options import (
    OUTPUT_OPTIONS,
    PAIR_OPTIONS,
    ChosenPair,
    add_options,
    pair_options,
    tables_aside,
)
from helix_mlx.cli.bench import MEASUREMENTS, PARTS, bench_command
from helix_mlx.errors import SettingsError


def shared(*groups: tuple[object, ...]) -> dict[str | None, click.Option]:
    return {each.name: each for each in add_options(*groups)(click.Command("any")).params}  # type: ignore[arg-type]


def test_every_measurement_takes_the_shared_options_as_they_are_declared() -> None:
    output, pair = shared(OUTPUT_OPTIONS), shared(PAIR_OPTIONS)
    context = click.Context(bench_command)
    for name in [*PARTS, *MEASUREMENTS]:
        command = bench_command.get_command(context, name)
        assert command is not None
        given = {each.name: each for each in command.params if isinstance(each, click.Option)}
        assert output.keys() <= given.keys(), name
        assert pair.keys() <= given.keys() or not pair.keys() & given.keys(), name
        for each in given.keys() & (output | pair).keys():
            declared, own = (output | pair)[each], given[each]
            assert (own.opts, own.help, own.default) == (declared.opts, declared.help, declared.default), name


def test_a_measurement_gets_the_pair_as_one_argument() -> None:
    found: list[tuple[ChosenPair, int]] = []

    @click.command
    @pair_options
    @click.option("--repeats", default=1)
    def command(chosen: ChosenPair, repeats: int) -> None:
        found.append((chosen, repeats))

    command(["--synthetic", "small/smaller", "--acceptance", "0.5", "--repeats", "3"], standalone_mode=False)
    assert found == [(ChosenPair(synthetic="small/smaller", acceptance=0.5), 3)]
    with pytest.raises(SettingsError, match="cannot be used together"):
        command(["--pair", "tiny", "--target", "x"], standalone_mode=False)


def test_tables_leave_standard_output_to_json(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (True, False):
        with tables_aside(as_json):
            sys.stdout.write(f"{as_json}")
    assert tuple(capsys.readouterr()) == ("False", "True")
