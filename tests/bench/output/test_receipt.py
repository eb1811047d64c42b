from __future__ import annotations

import json
from pathlib import Path

import pytest

from helix_mlx.bench.output.command import finish
from helix_mlx.bench.output.receipt import FORMAT, Receipt, ReceiptError, write_output
from helix_mlx.bench.output.tables import Asked
from helix_mlx.engine.engine import Engine


def test_a_receipt_says_what_was_run_where(engine: Engine, tmp_path: Path) -> None:
    receipt = Receipt("helix-mlx bench", {"quick": True}, "made up")
    receipt.describe(engine)
    receipt.parts["latency"] = [{"tokens": [1]}]
    receipt.ask([Asked("a", "b", "c", True)])
    file = tmp_path / "receipt.json"
    finish(receipt.to_json(), as_json=False, out=file)
    data = json.loads(file.read_text())
    assert data["format"] == FORMAT
    assert not data["complete"]
    assert data["synthetic"] == "made up"
    assert data["machine"]["chip"]
    assert data["versions"].keys() >= {"helix-mlx", "mlx", "mlx-lm"}
    assert data["pair"]["quantization"] == {"bits": 4, "group_size": 64}
    assert len(data["pair"]["cost_table"]["target_s"]) == 8
    assert data["latency"] == [{"tokens": [1]}]
    assert data["asked"][0]["met"]
    assert [each.name for each in tmp_path.iterdir()] == ["receipt.json"]


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReceiptError, match="existing folder"):
        write_output(tmp_path / "nowhere" / "receipt.json", b"")
