"""Every family that mlx-lm has: its text is mlx-lm's, token for token, or it is refused in one true line."""

from __future__ import annotations

import importlib
import json
import pkgutil
from importlib import metadata
from pathlib import Path
from typing import Any

import mlx_lm.models
import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.errors import ModelError
from helix_mlx.kernels.device import on_cpu
from helix_mlx.models.loader import LoadedModel, read_config
from helix_mlx.models.pair import Pair
from helix_mlx.models.probe import check_rows
from helix_mlx.request import SamplingParams, Stats
from tests.census.families import FAMILIES, NEEDS_METAL
from tests.support import alike, as_loaded, byte_tokenizer, plain, prompt, untouched

ROWS_ARE_OF = (0, 32)
VERSION = metadata.version("mlx-lm")
pytestmark = pytest.mark.skipif(
    tuple(int(part) for part in VERSION.split(".")[:2]) < ROWS_ARE_OF,
    reason=f"mlx-lm {VERSION} is older than the rows, and answers otherwise or not at all for some families",
)

NEW = 8  # each text runs past the end of a page
PROMPTS = [prompt(43, 5), prompt(12, 6), prompt(75, 7)]
LIKELIEST, DRAWN = SamplingParams(max_tokens=NEW), SamplingParams(max_tokens=NEW, temperature=1.0, seed=11)
COUNTS = (0, 1, 4, 7)
EXACT_AT_LEAST = 120
INSTALLED = {module.name for module in pkgutil.iter_modules(mlx_lm.models.__path__)}


def config(family: str) -> dict[str, Any]:
    return {**FAMILIES[family].config, "model_type": family}


def checked(model: Any, family: str) -> LoadedModel:
    """A model in memory, checked as a loaded one is."""
    made = as_loaded(model, config(family))
    check_rows(made.model, made.probed, made.config)
    return made


def tiny_pair(family: str) -> Pair:
    """A random target, and a draft of its family that foresees some of what it says."""
    draft = untouched(config(family), 0)
    alike(draft, untouched(config(family), 7), FAMILIES[family].draft_share)
    return Pair(family, checked(untouched(config(family), 0), family), checked(draft, family), byte_tokenizer())


def families(*, refused: bool) -> list[str]:
    return [name for name, family in FAMILIES.items() if bool(family.refusal) == refused]


def need(family: str) -> None:
    if family not in INSTALLED:
        pytest.skip(f"the mlx-lm that is installed has no {family}")


@pytest.mark.parametrize("family", families(refused=False))
def test_a_family_says_what_mlx_lm_says(family: str) -> None:
    """Greedy and seeded, with and without drafts, alone and in a batch with shorter and longer ones.

    The draft says what the target says for a while, so that cycles keep none, some and all of their drafts.
    """
    need(family)
    plainly = untouched(config(family), 0)
    greedy = [plain(plainly, tokens, NEW) for tokens in PROMPTS]
    with Engine(tiny_pair(family), EngineConfig(max_context=128, prefill_chunk=32, max_rows=48)) as engine:
        stats: list[Stats] = []

        def texts(asked: list[tuple[int, int, SamplingParams]]) -> list[list[int]]:
            """Of a batch of prompts, each with its own draft length."""
            handles = [engine.submit(PROMPTS[at], params, draft_tokens=count) for at, count, params in asked]
            done = [handle.result() for handle in handles]
            stats.extend(each.stats for each in done)
            return [each.tokens for each in done]

        drawn = [texts([(at, 0, DRAWN)])[0] for at in range(3)]
        said = {LIKELIEST: greedy, DRAWN: drawn}
        for turn, count in enumerate(COUNTS):
            for params in (LIKELIEST, DRAWN)[: 2 if count else 1]:
                assert texts([(turn % 3, count, params)]) == [said[params][turn % 3]], f"alone, K = {count}"
            # In four batches of three every draft length comes with both ways to choose.
            asked = [(at, COUNTS[(turn + at) % 4], (LIKELIEST, DRAWN)[(turn // 2 + at) % 2]) for at in range(3)]
            assert texts(asked) == [said[params][at] for at, _, params in asked], f"a batch of {asked}"
    assert 0 < sum(each.accepted for each in stats) < sum(each.drafted for each in stats)


@pytest.mark.parametrize("family", families(refused=True))
def test_a_family_is_refused_in_one_true_line(family: str, tmp_path: Path) -> None:
    need(family)
    row = FAMILIES[family]
    if row.refusal == NEEDS_METAL and not on_cpu():
        pytest.skip("there is a GPU for it")
    (tmp_path / "config.json").write_text(json.dumps({**row.config, "model_type": family}))
    line = ""
    try:
        read_config(tmp_path, trust_remote_code=False)
        checked(untouched(config(family), 0), family)
    except ModelError as error:
        line = str(error)
    assert row.refusal in line
    assert repr(family) in line
    assert "\n" not in line


def test_nearly_every_family_is_exact() -> None:
    assert len(families(refused=False)) >= EXACT_AT_LEAST


def test_every_family_has_a_row() -> None:
    """Those of a newer mlx-lm are named, and break nothing."""
    unknown = sorted(INSTALLED - FAMILIES.keys())
    modules = {name: importlib.import_module(f"mlx_lm.models.{name}") for name in unknown}
    missing = [name for name, module in modules.items() if hasattr(module, "Model") and hasattr(module, "ModelArgs")]
    if missing:
        pytest.skip(f"tests/census/families.py has no row for {', '.join(missing)}")
