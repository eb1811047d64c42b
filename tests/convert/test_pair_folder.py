"""From two checkpoints to a folder that every command takes by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.convert import pair_folder
from helix_mlx.convert.checkpoint import convert_checkpoint
from helix_mlx.convert.file_lock import exclusively
from helix_mlx.convert.pair_folder import Wanted, convert_pair, out_folder
from helix_mlx.convert.recipe import Recipe
from helix_mlx.engine.engine import load
from helix_mlx.errors import HelixError, ModelError, PairError, SettingsError
from helix_mlx.models.manifest import Manifest, check_files, read_manifest, verify_files
from tests.convert.checkpoints import write_checkpoint, write_tokenizer
from tests.support import plain, prompt

RECIPE = Recipe(group_size=32)


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    target = write_checkpoint(tmp_path / "big", shards=2)
    return target, write_checkpoint(tmp_path / "small", seed=7, num_hidden_layers=1)


def wanted(sources: tuple[Path, Path], out: Path, **changes: Any) -> Wanted:
    target, draft = sources
    settings = {"recipe": RECIPE, "draft_recipe": RECIPE, **changes}
    return Wanted(str(target), str(draft), out, **settings)


def convert(what: Wanted) -> Manifest:
    return convert_pair(what, lambda _: None, lambda *_: None)


def test_a_pair_is_made_and_loads_by_its_folder(sources: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "pair"
    made = convert(wanted(sources, out))
    assert read_manifest(out) == made
    assert made.target.source == str(sources[0])
    assert made.target.quantization == {"group_size": 32, "bits": 4, "mode": "affine"}
    assert made.vocabulary is not None
    assert made.vocabulary["kind"] == "identical"
    assert set(made.files) >= {"target/model.safetensors", "draft/config.json", "draft/tokenizer.json"}
    verify_files(out, made, lambda *_: None)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["big", "pair", "small"]
    with load(str(out), config=EngineConfig(max_context=128, calibrate=False, cpu_kernels="off")) as engine:
        assert engine.pair.draft is not None
        expected = plain(engine.pair.target.model, prompt(9), 20)
        assert engine.generate(prompt(9), max_tokens=20, draft_tokens=4).tokens == expected


def test_a_target_alone_is_a_pair_too(sources: tuple[Path, Path], tmp_path: Path) -> None:
    made = convert(Wanted(str(sources[0]), None, tmp_path / "alone", RECIPE, RECIPE))
    assert made.draft is None
    assert made.vocabulary is None
    with load(
        str(tmp_path / "alone"), config=EngineConfig(max_context=64, calibrate=False, cpu_kernels="off")
    ) as engine:
        assert engine.pair.draft is None


def test_the_draft_may_have_bits_of_its_own(sources: tuple[Path, Path], tmp_path: Path) -> None:
    made = convert(wanted(sources, tmp_path / "pair", draft_recipe=Recipe(bits=8, group_size=32)))
    assert made.draft is not None
    assert made.draft.quantization == {"group_size": 32, "bits": 8, "mode": "affine"}


def test_a_folder_that_exists_is_left_alone(sources: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "pair"
    out.mkdir()
    (out / "mine").write_text("mine")
    with pytest.raises(SettingsError, match="already exists"):
        convert(wanted(sources, out))
    assert (out / "mine").read_text() == "mine"


def test_what_another_process_is_making_is_left_alone(sources: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "pair"
    half = tmp_path / ".pair.part" / "target"
    half.mkdir(parents=True)
    with exclusively(out), pytest.raises(SettingsError, match="another process"):
        convert(wanted(sources, out))
    assert half.is_dir()


def test_ctrl_c_leaves_nothing_that_loads_and_the_next_try_goes_on(
    sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, converted = tmp_path / "pair", []

    def interrupted(source: Path, destination: Path, *rest: Any, **more: Any) -> Any:
        converted.append(destination.name)
        if len(converted) == 2:
            destination.mkdir()
            (destination / "model.safetensors").write_text("half")
            raise KeyboardInterrupt
        return convert_checkpoint(source, destination, *rest, **more)

    monkeypatch.setattr(pair_folder, "convert_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(wanted(sources, out))
    assert not out.exists()
    with pytest.raises(HelixError):
        load(str(out))
    made = convert(wanted(sources, out))
    assert converted == ["target", "draft", "draft"]
    verify_files(out, made, lambda *_: None)
    assert not list(tmp_path.glob(".*"))


def test_another_recipe_takes_nothing_over(
    sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "pair"

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pair_folder, "hashed_files", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(wanted(sources, out))
    made = convert(wanted(sources, out, recipe=Recipe(bits=8, group_size=32)))
    assert made.target.quantization is not None
    assert made.target.quantization["bits"] == 8


@pytest.mark.parametrize("error", [ModelError("damaged"), OSError(28, "No space left on device"), ValueError("a bug")])
def test_a_mistake_leaves_nothing_behind(
    error: Exception, sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(pair_folder, "convert_checkpoint", fails)
    with pytest.raises(ValueError if isinstance(error, ValueError) else ModelError):
        convert(wanted(sources, tmp_path / "pair"))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["big", "small"]


def test_vocabularies_are_compared_before_the_work(sources: tuple[Path, Path], tmp_path: Path) -> None:
    write_tokenizer(sources[1], first=200)
    with pytest.raises(PairError, match="the draft's vocabulary differs"):
        convert(wanted(sources, tmp_path / "pair"))
    assert not (tmp_path / "pair").exists()


def test_too_little_room_is_told_before_the_work(
    sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(ModelError, match="GB free"):
        convert(wanted(sources, tmp_path / "pair"))
    assert not list(tmp_path.glob("*pair*"))


@pytest.mark.parametrize("name", ["", ".hidden", "..", "a b", "-x", "x" * 200, "a/../b", "name\n"])
def test_a_name_with_tricks_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="out is"):
        out_folder(name, tmp_path)


def test_a_try_that_goes_on_needs_room_for_the_rest_alone(
    sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pair_folder, "hashed_files", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(wanted(sources, tmp_path / "pair"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    made = convert(wanted(sources, tmp_path / "pair"))
    assert made.draft is not None
    assert all(path.startswith(("target/", "draft/")) for path in made.files)
    assert sorted(each.name for each in (tmp_path / "pair").iterdir()) == ["draft", "helix.json", "target"]


def test_what_is_quantised_already_is_told_to_be_taken_as_it_is(sources: tuple[Path, Path], tmp_path: Path) -> None:
    told: list[str] = []
    convert(wanted(sources, tmp_path / "pair"))
    four = (tmp_path / "pair" / "target", tmp_path / "pair" / "draft")
    again = Recipe(bits=8, group_size=32, again=True)
    changes = {"recipe": Recipe(bits=8, group_size=32), "draft_recipe": again}
    made = convert_pair(wanted(four, tmp_path / "other", **changes), told.append, lambda *_: None)
    assert len(told) == 1
    assert f"{four[0]} is already quantised" in told[0]
    assert "bits 4" in told[0]
    assert "--requantize" in told[0]
    assert [model.quantization["bits"] for model in made.models if model.quantization] == [4, 8]


def test_a_name_lies_among_the_pairs_and_a_path_where_it_says(tmp_path: Path) -> None:
    assert out_folder("qwen3-8b.q4", tmp_path) == tmp_path / "qwen3-8b.q4"
    assert out_folder("./here", tmp_path) == Path("here")


@pytest.fixture
def pair(sources: tuple[Path, Path], tmp_path: Path) -> Path:
    convert(wanted(sources, tmp_path / "pair"))
    return tmp_path / "pair"


def test_a_file_that_was_changed_is_named(pair: Path) -> None:
    file = pair / "target" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    manifest = read_manifest(pair)
    check_files(pair, manifest)
    with pytest.raises(PairError, match=r"target/model.safetensors is damaged: its hash differs"):
        verify_files(pair, manifest, lambda *_: None)
    file.write_bytes(data[:-1])
    with pytest.raises(PairError, match="bytes instead of"):
        load(str(pair))
    file.unlink()
    with pytest.raises(PairError, match="is missing"):
        load(str(pair))


MODEL = {"role": "target", "source": "a", "revision": None, "quantization": None, "bytes": 1}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 99}, "update Helix"),
        ({"models": []}, "is damaged"),
        ({"models": [{"role": "target"}]}, "is damaged"),
        ({"files": {"../../secret": [1, "x"]}}, "is damaged"),
        ({"files": {"/etc/passwd": [1, "x"]}}, "is damaged"),
        ({"files": 3}, "is damaged"),
        ({"files": {"a": [1e400, "x"]}}, "is damaged"),
        ({"acceptance": "x"}, "is damaged"),
        ({"models": [{**MODEL, "source": 5}]}, "is damaged"),
        ({"models": [{**MODEL, "bytes": "1"}]}, "is damaged"),
        ({"models": [{**MODEL, "quantization": "x"}]}, "is damaged"),
    ],
)
def test_a_manifest_that_means_nothing_is_told(pair: Path, change: dict[str, Any], told: str) -> None:
    file = pair / "helix.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(PairError, match=told):
        read_manifest(pair)
    file.write_text("[" * 100_000)
    with pytest.raises(PairError, match="is damaged"):
        read_manifest(pair)
    file.write_text("{")
    with pytest.raises(PairError, match="is damaged"):
        read_manifest(pair)
    file.unlink()
    with pytest.raises(PairError, match="is not a pair"):
        read_manifest(pair)
