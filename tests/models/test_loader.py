"""Folders and repositories that are not what they should be: each is refused in a line that says what to do."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from helix_mlx.errors import ModelError
from helix_mlx.kernels.device import on_cpu
from helix_mlx.models.loader import LoadedModel, load
from tests.families import FAMILIES
from tests.support import VOCAB, random_model


def parameters(loaded: LoadedModel) -> Any:
    model: Any = loaded.model
    return dict(tree_flatten(model.parameters()))


def write_model(folder: Path, **changes: Any) -> Path:
    """A tiny float checkpoint in the layout that mlx-lm reads."""
    loaded = random_model("llama")
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / "model.safetensors"), parameters(loaded))
    config = {"model_type": "llama", "vocab_size": VOCAB, **FAMILIES["llama"], **changes}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "good")


def weights_of(folder: Path) -> Any:
    return mx.load(str(folder / "model.safetensors"))


def copied(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "copy"))


def test_a_folder_loads_with_what_it_says_of_itself(good: Path) -> None:
    loaded = load(str(good))
    assert loaded.vocab_size == VOCAB
    assert loaded.max_context == 4096
    assert [(s.key_heads, s.key_dim, s.window) for s in loaded.layers] == [(2, 8, None)] * 2
    assert loaded.nbytes > 0


def test_half_precision_weights_become_float32_on_a_cpu(good: Path, tmp_path: Path) -> None:
    folder = copied(good, tmp_path)
    weights = {name: array.astype(mx.bfloat16) for name, array in weights_of(folder).items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    loaded = load(str(folder))
    if on_cpu():
        assert {array.dtype for array in parameters(loaded).values()} == {mx.float32}


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "nowhere", "~/nowhere"])
def test_a_missing_folder(source: str) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        load(source)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load(str(tmp_path))


def test_a_config_without_a_model_type(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no model_type"):
        load(str(write_model(tmp_path / "m", model_type=None)))


def test_an_unknown_model_type(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not know the model type 'hal9000'"):
        load(str(write_model(tmp_path / "m", model_type="hal9000")))


@pytest.mark.parametrize("module", ["base", "cache"])
def test_a_module_of_mlx_lm_that_is_no_model(tmp_path: Path, module: str) -> None:
    with pytest.raises(ModelError, match="does not know the model type"):
        load(str(write_model(tmp_path / "m", model_type=module)))


def test_a_model_type_whose_own_package_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """mlx-lm's olmo prints what it misses and ends the process."""
    monkeypatch.setitem(sys.modules, "hf_olmo", None)
    monkeypatch.delitem(sys.modules, "mlx_lm.models.olmo", raising=False)
    with pytest.raises(ModelError, match=r"cannot run the model type 'olmo' \(.*ai2-olmo.*\); choose another"):
        load(str(write_model(tmp_path / "m", model_type="olmo")))
    assert capsys.readouterr().out == ""


def test_a_config_that_holds_a_list(good: Path, tmp_path: Path) -> None:
    folder = copied(good, tmp_path)
    (folder / "config.json").write_text("[1, 2]")
    with pytest.raises(ModelError, match="contains no settings"):
        load(str(folder))


def test_a_damaged_config(good: Path, tmp_path: Path) -> None:
    folder = copied(good, tmp_path)
    (folder / "config.json").write_text('{"model_type": "lla')
    with pytest.raises(ModelError, match="is damaged"):
        load(str(folder))


@pytest.mark.parametrize("left", [0, 5, 200, 4000])
def test_a_truncated_weight_file(good: Path, tmp_path: Path, left: int) -> None:
    folder = copied(good, tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:left])
    with pytest.raises(ModelError, match="download the model again"):
        load(str(folder))


def test_no_weights_at_all(good: Path, tmp_path: Path) -> None:
    folder = copied(good, tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        load(str(folder))


def test_a_missing_weight(good: Path, tmp_path: Path) -> None:
    folder = copied(good, tmp_path)
    weights = weights_of(folder)
    weights.pop("model.norm.weight")
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    with pytest.raises(ModelError, match="cannot load the weights"):
        load(str(folder))


def test_a_model_that_wants_to_run_its_own_code(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m [1]", model_file="evil.py")
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nfrom mlx_lm.models.llama import Model, ModelArgs\n")
    with pytest.raises(ModelError, match="--trust-remote-code"):
        load(str(folder))
    assert not ran.exists()
    load(str(folder), trust_remote_code=True)
    assert ran.exists()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[int, str], None]]:
    """The hub's own client against a server on this machine that refuses everything as it is told to."""
    import huggingface_hub.constants as constants

    refusal: list[Any] = []

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, code = refusal
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    yield lambda status, code: refusal.extend((status, code))
    server.shutdown()
    server.server_close()


def test_no_such_repository(hub: Callable[[int, str], None]) -> None:
    hub(404, "RepoNotFound")
    with pytest.raises(ModelError, match="there is no repository some/model, or it is private"):
        load("some/model")


def test_a_gated_repository(hub: Callable[[int, str], None]) -> None:
    hub(403, "GatedRepo")
    with pytest.raises(ModelError, match="some/model is gated: accept its licence"):
        load("some/model")


def test_a_hub_in_trouble(hub: Callable[[int, str], None]) -> None:
    hub(500, "")
    with pytest.raises(ModelError, match="cannot reach the hub for some/model"):
        load("some/model")


def test_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's own client against an address where nobody answers."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="cannot reach the hub for some/model"):
        load("some/model")
