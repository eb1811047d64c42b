"""From a pair and prompts to a pair with a better draft, interrupted or not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.convert.distill import distillation
from helix_mlx.convert.distill.distillation import Wanted, distill
from helix_mlx.convert.distill.training import Schedule
from helix_mlx.convert.pair_folder import Wanted as ToConvert
from helix_mlx.convert.pair_folder import convert_pair
from helix_mlx.engine.engine import load
from helix_mlx.errors import PairError, PromptError, SettingsError
from helix_mlx.kernels.cpu.choice import NO_KERNELS
from helix_mlx.models.manifest import read_manifest, verify_files
from tests.convert.checkpoints import write_checkpoint, write_tokenizer
from tests.convert.distill.conftest import RECIPE
from tests.support import plain, prompt

SCHEDULE = Schedule(epochs=3, rate=4e-3)


@pytest.fixture(autouse=True)
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is taught does not depend on them, and compiling them takes long."""
    for place in ("helix_mlx.engine.engine.choose_kernels", "helix_mlx.convert.distill.distillation.choose_kernels"):
        monkeypatch.setattr(place, lambda *_, **__: NO_KERNELS)


def wanted(pair: Path, prompts: Path, out: Path, **changes: Any) -> Wanted:
    settings: dict[str, Any] = {"how": "full", "samples": 2, "max_tokens": 16, "held_out": 0.25, "schedule": SCHEDULE}
    return Wanted(str(pair), prompts, out, **{**settings, **changes})


def taught(what: Wanted, said: list[str] | None = None) -> dict[str, Any]:
    return distill(what, (said if said is not None else []).append, lambda *_: None)


def test_the_draft_learns_and_the_answers_stay(pair: Path, prompts_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "taught"
    report = taught(wanted(pair, prompts_file, out))
    assert report["chances"][report["best_epoch"]] > report["chances"][0] + 0.03
    assert report["prompts"] == {"taught": 7, "held_out": 5}
    manifest = read_manifest(out)
    assert manifest.distillation == json.loads(json.dumps(report))
    assert manifest.draft is not None
    assert manifest.draft.source.endswith("small, distilled")
    assert manifest.target == read_manifest(pair).target
    verify_files(out, manifest, lambda *_: None)
    assert (out / "target" / "model.safetensors").samefile(pair / "target" / "model.safetensors")
    assert not (tmp_path / ".taught.part").exists()
    with load(str(out), config=EngineConfig(max_context=128, calibrate=False, cpu_kernels="off")) as engine:
        expected = plain(engine.pair.target.model, prompt(9), 20)
        assert engine.generate(prompt(9), max_tokens=20, draft_tokens=4).tokens == expected


def test_low_rank_changes_teach_too(pair: Path, prompts_file: Path, tmp_path: Path) -> None:
    schedule = Schedule(epochs=2, rate=3e-3)
    report = taught(wanted(pair, prompts_file, tmp_path / "taught", how="lora", schedule=schedule))
    assert report["chances"][report["best_epoch"]] > report["chances"][0]


def test_a_run_that_is_interrupted_at_every_step_ends_alike(pair: Path, prompts_file: Path, tmp_path: Path) -> None:
    """Bit for bit, and nothing that was written is written again."""
    taught(wanted(pair, prompts_file, tmp_path / "straight"))
    what = wanted(pair, prompts_file, tmp_path / "broken")
    said: list[str] = []
    wrote: list[int] = []
    for step in ("the target writes", "the target reads", "the draft learns", "hashing"):

        def interrupt(label: str, done: int, total: int, step: str = step) -> None:
            if label == "the target writes":
                wrote.append(done)
            if label == step and done >= 2 * total / 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            distill(what, said.append, interrupt)
        assert not what.out.exists()
    taught(what, said)
    assert sum("Resuming from" in line for line in said) == 4
    assert wrote == list(range(1, 25))
    for name in ("model.safetensors", "config.json"):
        draft = Path("draft") / name
        assert (what.out / draft).read_bytes() == (tmp_path / "straight" / draft).read_bytes()


def test_other_settings_begin_anew(pair: Path, prompts_file: Path, tmp_path: Path) -> None:
    what = wanted(pair, prompts_file, tmp_path / "taught")

    def interrupt(label: str, done: int, total: int) -> None:
        if label == "the draft learns":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(what, lambda _: None, interrupt)
    said: list[str] = []
    report = taught(wanted(pair, prompts_file, tmp_path / "taught", samples=1), said)
    assert not any("Resuming from" in line for line in said)
    assert report["texts_a_prompt"] == 1


def test_a_draft_that_cannot_be_bettered_is_left_alone(pair: Path, prompts_file: Path, tmp_path: Path) -> None:
    """The target as its own draft foresees everything that a draft could."""
    shutil.copytree(pair / "target", tmp_path / "same")
    itself = ToConvert(str(pair / "target"), str(tmp_path / "same"), tmp_path / "itself", RECIPE, RECIPE)
    convert_pair(itself, lambda _: None, lambda *_: None)
    with pytest.raises(PairError, match="did not improve"):
        taught(wanted(tmp_path / "itself", prompts_file, tmp_path / "taught", schedule=Schedule(epochs=1, rate=0.05)))
    assert not (tmp_path / "taught").exists()
    assert not (tmp_path / ".taught.part").exists()


def test_mistakes_are_told(pair: Path, prompts_file: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="already exists"):
        taught(wanted(pair, prompts_file, pair))
    with pytest.raises(SettingsError, match="held-out is 1"):
        wanted(pair, prompts_file, tmp_path / "out", held_out=1.0)
    with pytest.raises(SettingsError, match="no pair named nothing"):
        taught(Wanted("nothing", prompts_file, tmp_path / "out"))
    with pytest.raises(PromptError, match="cannot read"):
        taught(wanted(pair, tmp_path / "nowhere", tmp_path / "out"))
    alone = ToConvert(str(tmp_path / "big"), None, tmp_path / "alone", RECIPE, RECIPE)
    convert_pair(alone, lambda _: None, lambda *_: None)
    with pytest.raises(PairError, match="no draft"):
        taught(wanted(tmp_path / "alone", prompts_file, tmp_path / "out"))
    assert not (tmp_path / ".out.part").exists()


def test_a_draft_of_another_vocabulary_is_refused(prompts_file: Path, tmp_path: Path) -> None:
    target, draft = write_checkpoint(tmp_path / "one"), write_checkpoint(tmp_path / "two", seed=7)
    write_tokenizer(draft, first=40)
    both = ToConvert(str(target), str(draft), tmp_path / "both", RECIPE, RECIPE)
    convert_pair(both, lambda _: None, lambda *_: None)
    with pytest.raises(PairError, match="does not have its target's vocabulary"):
        taught(wanted(tmp_path / "both", prompts_file, tmp_path / "out"))


def test_a_full_disk_is_told_before(
    pair: Path, prompts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="teaching the draft needs"):
        taught(wanted(pair, prompts_file, tmp_path / "out"))
