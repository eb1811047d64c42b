"""Replays recorded acceptance of a pair's own texts through the draft-length controller, in modelled time.

    helix-mlx bench replay [--write FILE | --read FILE] [--cost-table m4-pro]

At temperature 0, or with a seed, the text is the same whoever drafts it. So at each of its positions there is one
answer to how many drafts of the model would be kept, which is recorded once; what n-grams have to offer is looked up
in the text itself. Every way of choosing a draft length then goes through the very same texts, in the time that a
cost table gives: this machine's, or that of a Mac which others measured. What is kept is real, the time is a model.
The target's reading of the prompt, the same for all, is left out.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from helix_mlx.bench.fixtures.answers import Ask
from helix_mlx.bench.fixtures.loading import open_engine
from helix_mlx.bench.fixtures.prompts import TEMPERATURES, WORKLOADS, filled
from helix_mlx.bench.output.command import Measured, measurement
from helix_mlx.bench.output.options import NEW_FILE, ChosenPair, in_a_folder, pair_options, renamed_option
from helix_mlx.bench.output.receipt import ReceiptError, write_output
from helix_mlx.bench.output.tables import Asked, table
from helix_mlx.bench.policy.simulation import NOISE, cost_tables
from helix_mlx.bench.suite.arms import NGRAM_LENGTH, helix_arm
from helix_mlx.bench.suite.latency import NEAR_BEST, NEVER_BELOW
from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.engine.scheduling.draft_policy import AdaptiveDraftPolicy, missed_s
from helix_mlx.engine.scheduling.draft_state import DraftState
from helix_mlx.engine.scheduling.sequence import DRAFT_GAP, KVState, Sequence
from helix_mlx.request import MAX_DRAFT_TOKENS, Request, SamplingParams
from helix_mlx.speculative.cost_model import CostTable
from helix_mlx.speculative.draft_length import NO_DRAFT
from helix_mlx.speculative.drafter import Needs
from helix_mlx.speculative.registry import MODEL, NGRAM, candidates

AUTO, PLAIN = "auto", "plain"


@dataclass(frozen=True)
class Recorded:
    """An answer, and what the draft model's drafts come to in it.

    Args:
        workload, temperature, repeat: which prompt, and how it was answered; `repeat` is the seed, too.
        prompt, text: token ids.
        kept: `kept[i]` is how many of seven drafts are kept that follow `text[i]`.
        max_tokens: that the answer might have had.
    """

    workload: str
    temperature: float
    repeat: int
    prompt: list[int]
    text: list[int]
    kept: list[int]
    max_tokens: int

    @property
    def key(self) -> tuple[float, str]:
        """What it belongs to."""
        return self.temperature, self.workload


def record(engine: Engine, workload: str, temperature: float, repeat: int, max_tokens: int) -> Recorded:
    """Answer a prompt, then ask for drafts at every position of the answer."""
    prompt = filled(engine, workload, repeat, None)
    text = helix_arm(engine, 0, None, Ask(prompt, max_tokens, temperature, repeat)).tokens
    kept = [kept_at(engine, prompt + text[:at], temperature, repeat) for at in range(len(text))]
    return Recorded(workload, temperature, repeat, prompt, text, kept, max_tokens)


def kept_at(engine: Engine, tokens: list[int], temperature: float, seed: int) -> int:
    """Of seven drafts that follow the next token, how many are kept."""
    params = SamplingParams(
        max_tokens=MAX_DRAFT_TOKENS + 2, temperature=temperature, seed=seed if temperature else None
    )
    chunks = [c for c in engine.submit(Request(tokens, params, MAX_DRAFT_TOKENS, MODEL)) if c.token is not None]
    drafted = [chunk.from_draft for chunk in chunks[1:]]
    return drafted.index(False) if False in drafted else len(drafted)


class Player:
    """One answer, cycle after cycle, in the time of a cost table.

    Args:
        recorded: the answer.
        cost_table: what cycles cost.
        noise: what a cycle's cost is multiplied with.
    """

    def __init__(self, recorded: Recorded, cost_table: CostTable, noise: Callable[[], float]) -> None:
        self._recorded, self._cost_table, self._noise = recorded, cost_table, noise
        self.seconds = 0.0
        self.sequence = Sequence(
            tokens=[*recorded.prompt, recorded.text[0]],
            prompt_tokens=len(recorded.prompt),
            params=SamplingParams(temperature=recorded.temperature),
            max_new=recorded.max_tokens,
            seed=recorded.repeat,
            eos_ids=frozenset(),
            answer=None,  # type: ignore[arg-type]
            kv=KVState(table=None),  # type: ignore[arg-type]
            pages_most=0,
            drafting=DraftState.of(AUTO, candidates(AUTO, Needs.DRAFT_MODEL), None),
        )

    @property
    def going(self) -> bool:
        """Whether the answer goes on."""
        return self.sequence.emitted_count < len(self._recorded.text)

    def cycle(self) -> tuple[int, float | None]:
        """One cycle as the sequence asks for it: the drafts that were kept, and its seconds, as an engine would know.

        None where the draft model had to read a text first, in passes of its own.
        """
        sequence, text = self.sequence, self._recorded.text
        count = min(sequence.drafting.next_draft_tokens, max(0, sequence.remaining - 1))
        uses_model = sequence.drafting.uses_model and count > 0
        seconds = self._cost_table.cycle_s(count, uses_model) * self._noise()
        missed = sequence.draft_lag if uses_model else 0
        self.seconds += seconds + missed_s(missed, self._cost_table.draft_read_s, self._cost_table.draft_s, alone=True)
        at = sequence.emitted_count
        kept = min(count, self._recorded.kept[at - 1]) if uses_model else self._looked_up(count, at)
        sequence.tokens += text[at : at + kept + 1]
        if uses_model:
            sequence.kv.draft_length = sequence.length - 1
        return kept, seconds if missed <= DRAFT_GAP else None

    def _looked_up(self, count: int, at: int) -> int:
        """How many drafts of n-grams are kept."""
        if not count:
            return 0
        drafts = self.sequence.drafting.token_drafters[NGRAM].propose(self.sequence.tokens, count)
        wrong = (i for i, (a, b) in enumerate(zip(drafts, self._recorded.text[at:], strict=False)) if a != b)
        return next(wrong, min(len(drafts), len(self._recorded.text) - at))


def fixed_seconds(player: Player, way: str) -> float:
    """An answer with one draft length throughout."""
    sequence = player.sequence
    while player.going:
        if way == NGRAM:
            sequence.drafting.set_next(NGRAM, min(NGRAM_LENGTH, sequence.available(NGRAM)))
        else:
            sequence.drafting.set_next(*((NO_DRAFT, 0) if way == PLAIN else (MODEL, int(way))))
        player.cycle()
    return player.seconds


def auto_seconds(player: Player, policy: AdaptiveDraftPolicy) -> float:
    """An answer with the draft lengths that an engine would choose, which remembers those before it."""
    sequence = player.sequence
    while player.going:
        policy.choose([sequence], MAX_DRAFT_TOKENS)
        count = sequence.drafting.next_draft_tokens
        kept, seconds = player.cycle()
        policy.note([(sequence, count, kept)], sequence.drafting.uses_model and count > 0, seconds)
    return player.seconds


def play(recording: Seq[Recorded], cost_table: CostTable, seed: int) -> list[dict[str, float]]:
    """Seconds of every way for each answer, in their order."""
    chance = random.Random(seed)
    policy = AdaptiveDraftPolicy(cost_table, measured=True)

    def player(recorded: Recorded) -> Player:
        return Player(recorded, cost_table, lambda: chance.lognormvariate(0.0, NOISE))

    ways = [PLAIN, *map(str, range(1, MAX_DRAFT_TOKENS + 1)), NGRAM]
    return [
        {AUTO: auto_seconds(player(each), policy), **{way: fixed_seconds(player(each), way) for way in ways}}
        for each in recording
    ]


@dataclass(frozen=True)
class Found:
    """What one workload at one temperature comes to: medians of auto by plain, and by the best fixed choice."""

    temperature: float
    workload: str
    by_plain: float
    best: str
    by_best: float


def judge(recording: Seq[Recorded], played: Seq[Seq[dict[str, float]]]) -> list[Found]:
    """By workload and temperature, over all times that the recording was played."""
    found = []
    for key in sorted({each.key for each in recording}):
        rows = [row for rows in played for each, row in zip(recording, rows, strict=True) if each.key == key]
        total = {way: sum(row[way] for row in rows) for way in rows[0] if way != AUTO}
        best = min(total, key=lambda way: total[way])
        by_plain, by_best = (statistics.median(row[way] / row[AUTO] for row in rows) for way in (PLAIN, best))
        found.append(Found(*key, by_plain, best, by_best))
    return found


def recording_of(engine: Engine, repeats: int, max_tokens: int) -> list[Recorded]:
    """Every workload and temperature, with a bar."""
    cases = [(w, t, r) for r in range(repeats) for t in TEMPERATURES for w in WORKLOADS]
    recording = []
    with click.progressbar(cases, label="recording") as bar:
        for workload, temperature, repeat in bar:
            recording.append(record(engine, workload, temperature, repeat, max_tokens))
    return [each for each in recording if len(each.text) > 1]


def read_recording(file: Path) -> tuple[list[Recorded], CostTable]:
    """What `--write` kept: the answers, and the cost table of the machine that gave them.

    Raises:
        ReceiptError: it is no such file.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        costs = data["cost_table"]
        cost_table = CostTable(tuple(costs["target_s"]), costs["draft_s"], costs["draft_read_s"])
        return [Recorded(**each) for each in data["recording"]], cost_table
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ReceiptError(f"cannot read {file}; name a recording, as `bench replay --write FILE` keeps it") from error


def show(found: list[Found]) -> list[Asked]:
    """Print the table; returns what was asked for."""
    table(
        ["T", "workload", "by plain", "best fixed", "by best"],
        [
            (f"{f.temperature:g}", f.workload, f"{f.by_plain:.3f}", f.best if not f.best.isdigit() else f"K={f.best}",
             f"{f.by_best:.3f}")
            for f in found
        ],
    )  # fmt: skip
    plain, best = min(found, key=lambda f: f.by_plain), min(found, key=lambda f: f.by_best)

    def line(what: str, bound: float, ratio: float, at: Found) -> Asked:
        told = f"{ratio:.3f} ({at.workload}, temperature {at.temperature:g})"
        return Asked(f"auto by {what}, on every workload", f"at least {bound:g}", told, ratio >= bound)

    return [
        line("plain decoding", NEVER_BELOW, plain.by_plain, plain),
        line("the best fixed choice", NEAR_BEST, best.by_best, best),
    ]


@measurement
@pair_options
@click.option("--repeats", default=6, show_default=True, type=click.IntRange(1), help="Prompts per workload.")
@click.option("--max-tokens", default=64, show_default=True, type=click.IntRange(2), help="Maximum tokens per answer.")
@click.option("--times", default=4, show_default=True, type=click.IntRange(1), help="Times to replay it.")
@click.option("--cost-table", "table_name", help="Use a Mac's costs from cost_tables.toml instead of this machine's.")
@renamed_option("--ladder", "--cost-table")
@click.option(
    "--draft-cost",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0),
    help="With --cost-table: cost of a draft step, in target passes.",
)
@click.option("--write", "written", type=NEW_FILE, callback=in_a_folder, help="Save the recording.")
@click.option("--read", "read", type=click.Path(path_type=Path, dir_okay=False), help="Replay a saved recording.")
def main(chosen: ChosenPair, repeats: int, max_tokens: int, times: int, **options: Any) -> Measured:
    """Compare auto with plain decoding and every fixed draft length, on recorded drafts in modelled time."""
    read, table_name = options["read"], options["table_name"]
    known = cost_tables(options["draft_cost"])
    if table_name is not None and table_name not in known:
        raise click.BadParameter(f"{table_name}: one of {', '.join(known)}", param_hint="--cost-table")
    if read is None:
        with open_engine(chosen, EngineConfig(), click.echo) as engine:
            recording = recording_of(engine, repeats, max_tokens)
            cost_table = engine.cost_table
    else:
        recording, cost_table = read_recording(read)
    if options["written"]:
        kept = {"cost_table": asdict(cost_table), "recording": [asdict(each) for each in recording]}
        write_output(options["written"], json.dumps(kept).encode())
    cost_table = known[table_name] if table_name else cost_table
    click.echo(
        f"Drafts of {len(recording)} answers, in the time of {table_name or 'the cost table measured here'}: a model."
    )
    found = judge(recording, [play(recording, cost_table, seed) for seed in range(times)])
    asked = show(found)
    return [asdict(f) for f in found], asked
