"""Every family that mlx-lm has: its text is mlx-lm's, token for token, or it is refused in one true line."""

from __future__ import annotations

import importlib
import json
import pkgutil
from importlib import metadata
from pathlib import Path

import mlx_lm.models
import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.errors import ModelError
from helix_mlx.kernels.device import on_cpu
from helix_mlx.models.loader import LoadedModel, read_config
from helix_mlx.models.pair import Pair
from helix_mlx.models.probe import check_rows
from helix_mlx.request import SamplingParams
from tests.census.families import FAMILIES, NEEDS_METAL
from tests.support import built, byte_tokenizer, plain, prompt

ROWS_ARE_OF = (0, 32)
VERSION = metadata.version("mlx-lm")
pytestmark = pytest.mark.skipif(
    tuple(int(part) for part in VERSION.split(".")[:2]) < ROWS_ARE_OF,
    reason=f"mlx-lm {VERSION} is older than the rows, and answers otherwise or not at all for some families",
)

NEW = 14  # each text runs past the end of a page
PROMPTS = [prompt(37, 5), prompt(9, 6), prompt(70, 7)]
LIKELIEST, DRAWN = SamplingParams(max_tokens=NEW), SamplingParams(max_tokens=NEW, temperature=1.0, seed=11)
INSTALLED = {module.name for module in pkgutil.iter_modules(mlx_lm.models.__path__)}


def tiny(family: str, seed: int) -> LoadedModel:
    """A random model of a family, checked as a loaded one is."""
    made = built({**FAMILIES[family].config, "model_type": family}, seed)
    check_rows(made.model, made.probed, made.config)
    return made


def families(*, refused: bool) -> list[str]:
    return [name for name, family in FAMILIES.items() if bool(family.refusal) == refused]


def need(family: str) -> None:
    if family not in INSTALLED:
        pytest.skip(f"the mlx-lm that is installed has no {family}")


@pytest.mark.parametrize("family", families(refused=False))
def test_a_family_says_what_mlx_lm_says(family: str) -> None:
    """Greedy and seeded, plainly and with drafts, alone and in one batch with shorter and longer ones."""
    need(family)
    target = tiny(family, 0)
    greedy = [plain(target.model, tokens, NEW) for tokens in PROMPTS]
    pair = Pair(family, target, tiny(family, 7), byte_tokenizer())
    with Engine(pair, EngineConfig(max_context=128, prefill_chunk=32, max_rows=48)) as engine:

        def texts(prompts: list[list[int]], params: list[SamplingParams], count: int) -> list[list[int]]:
            return [each.tokens for each in engine.generate(prompts, params, draft_tokens=count)]

        drawn = [texts([tokens], [DRAWN], 0)[0] for tokens in PROMPTS]
        for count in (0, 4):
            assert texts(PROMPTS * 2, [LIKELIEST] * 3 + [DRAWN] * 3, count) == greedy + drawn
            assert texts(PROMPTS[:1], [LIKELIEST], count) == greedy[:1]
        assert texts(PROMPTS[:1], [DRAWN], 4) == drawn[:1]


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
        tiny(family, 0)
    except ModelError as error:
        line = str(error)
    assert row.refusal in line
    assert repr(family) in line
    assert "\n" not in line


def test_every_family_has_a_row() -> None:
    """Those of a newer mlx-lm are named, and break nothing."""
    unknown = sorted(INSTALLED - FAMILIES.keys())
    modules = {name: importlib.import_module(f"mlx_lm.models.{name}") for name in unknown}
    missing = [name for name, module in modules.items() if hasattr(module, "Model") and hasattr(module, "ModelArgs")]
    if missing:
        pytest.skip(f"tests/census/families.py has no row for {', '.join(missing)}")
