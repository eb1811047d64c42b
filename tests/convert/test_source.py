"""Models from the hub, through the hub's own client, from a server on the loopback interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helix_mlx.convert.source import Source, find_source
from helix_mlx.errors import HelixError, ModelError, SettingsError
from tests.convert.checkpoints import write_checkpoint
from tests.convert.hub import COMMIT, REPOSITORY, Hub, serving

TOKENIZERS = ("tiktoken.model", "qwen.tiktoken", "spiece.model", "sentencepiece.bpe.model", "tekken.json", "vocab.json",
              "tokenizer.model.v3", "merges.txt", "chat_template.jinja", "generation_config.json")  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1024)
    hub = Hub(write_checkpoint(tmp_path / "offered", shards=2))
    with serving(hub):
        yield hub


def find(hub: Hub, name: str = REPOSITORY, **changes: Any) -> Source:
    settings = {"revision": None, "trust_remote_code": False, "line": lambda _: None, "endpoint": hub.url, **changes}
    return find_source(name, **settings)


def test_a_repository_is_fetched_and_its_revision_pinned(hub: Hub) -> None:
    found = find(hub)
    assert found.revision == COMMIT
    for file in hub.folder.iterdir():
        assert (found.folder / file.name).read_bytes() == file.read_bytes()
    hub.asked.clear()
    assert find(hub).folder == found.folder
    assert not [path for method, path, _ in hub.asked if method == "GET" and path.endswith(".safetensors")]


def test_every_kind_of_tokenizer_is_fetched(hub: Hub) -> None:
    for name in TOKENIZERS:
        (hub.folder / name).write_text("{}")
    (hub.folder / "picture.png").write_text("")
    found = find(hub)
    assert all((found.folder / name).is_file() for name in TOKENIZERS)
    assert not (found.folder / "picture.png").exists()


def test_a_shard_that_the_hub_has_not_is_named(hub: Hub) -> None:
    (hub.folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"is missing weights: model-00002-of-00002\.safetensors"):
        find(hub)


def test_what_broke_off_goes_on_where_it_was(hub: Hub) -> None:
    name = "model-00001-of-00002.safetensors"
    hub.drop.add(name)
    found = find(hub)
    assert (found.folder / name).read_bytes() == (hub.folder / name).read_bytes()
    ranges = [wanted for method, path, wanted in hub.asked if method == "GET" and path.endswith(name)]
    assert any(wanted is not None and not wanted.startswith("bytes=0-") for wanted in ranges)


def test_a_wrong_hash_names_the_file_and_leaves_nothing_of_it(hub: Hub) -> None:
    name = "model-00002-of-00002.safetensors"
    hub.lie.add(name)
    with pytest.raises(ModelError, match=f"{name} was damaged in transit"):
        find(hub)
    hub.lie.clear()
    assert (find(hub).folder / name).is_file()


@pytest.mark.parametrize(
    ("refuse", "told"),
    [
        ((401, "RepoNotFound"), "no repository someone/model, or it is private"),
        ((403, "GatedRepo"), "is gated"),
        ((404, "RepoNotFound"), "no repository someone/model"),
        ((404, "RevisionNotFound"), "no such revision"),
        ((500, ""), "cannot reach the hub"),
    ],
)
def test_a_refusal_says_what_to_do(hub: Hub, refuse: tuple[int, str], told: str) -> None:
    hub.refuse = refuse
    with pytest.raises(ModelError, match=told):
        find(hub)


def test_no_network_is_told(hub: Hub) -> None:
    with pytest.raises(ModelError, match="check the network"):
        find(hub, endpoint="http://127.0.0.1:9")


def room(monkeypatch: pytest.MonkeyPatch, free: int) -> list[Path]:
    """Disks that have so much free; the folders that are asked about."""
    asked: list[Path] = []

    def usage(folder: Path) -> Any:
        asked.append(folder)
        return type("Usage", (), {"free": free})()

    monkeypatch.setattr("shutil.disk_usage", usage)
    return asked


def test_a_full_disk_is_told_before_anything_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = room(monkeypatch, 10)
    with pytest.raises(ModelError, match="GB free"):
        find(hub)
    assert not [path for _, path, _ in hub.asked if "resolve" in path]
    # The disk of the hub's cache, which need not be the home's, and may not be there yet.
    assert asked
    assert all(folder.is_dir() and folder.is_relative_to(tmp_path) for folder in asked)


def test_only_what_will_be_fetched_needs_room(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    (hub.folder / "consolidated.safetensors").write_bytes(bytes(10_000_000))
    with monkeypatch.context() as patched:
        room(patched, 5_000_000)
        found = find(hub)
    assert not (found.folder / "consolidated.safetensors").exists()
    room(monkeypatch, 50_000)  # less than its weights, which are here by now
    assert found.weight_bytes > 50_000
    assert find(hub).folder == found.folder


def test_pickled_weights_are_refused_unfetched(hub: Hub) -> None:
    for file in hub.folder.glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    with pytest.raises(ModelError, match="pickled"):
        find(hub)
    assert not [path for _, path, _ in hub.asked if "resolve" in path]
    with pytest.raises(ModelError, match="pickled"):
        find(hub, str(hub.folder))


def test_code_is_left_alone_and_told_of(hub: Hub) -> None:
    (hub.folder / "modeling.py").write_text("raise SystemExit")
    told: list[str] = []
    find(hub, line=told.append)
    assert "contains code (modeling.py)" in told[0]


@pytest.mark.parametrize(
    ("name", "told"),
    [("./nowhere", "no folder"), ("nothing", "no folder"), ("a/b/c", "no folder"), ("../x/y", "no folder")],
)
def test_a_name_that_is_none_is_told(hub: Hub, name: str, told: str) -> None:
    with pytest.raises(HelixError, match=told):
        find(hub, name)


def test_a_folder_has_no_revision(hub: Hub) -> None:
    with pytest.raises(SettingsError, match="leave it out"):
        find(hub, str(hub.folder), revision="main")
    assert find(hub, str(hub.folder)).revision is None


def test_an_unknown_architecture_is_told(hub: Hub) -> None:
    (hub.folder / "config.json").write_text('{"model_type": "of the future"}')
    with pytest.raises(ModelError, match="does not know"):
        find(hub, str(hub.folder))
