from __future__ import annotations

import pytest

from helix_mlx.bench.fixtures.models import small_pair
from helix_mlx.bench.studies.interference import AFTER, BEFORE, Stream, plot, row

PROMPT, CHUNK = 200, 64


@pytest.mark.parametrize("chunk", [CHUNK, PROMPT + 96])
def test_a_long_prompt_is_read_between_the_tokens_of_the_stream(chunk: int, capsys: pytest.CaptureFixture[str]) -> None:
    trace = Stream(small_pair(4096), chunk, PROMPT).run()
    assert trace.arrived == BEFORE
    assert len(trace.gaps) == trace.answered + AFTER
    assert not any(gap.read for gap in trace.gaps[:BEFORE])
    assert sum(gap.read for gap in trace.gaps) in (PROMPT - 1, PROMPT)
    busy = [gap for gap in trace.gaps if gap.read]
    assert max(gap.read for gap in busy) <= chunk
    assert len(busy) == -(-PROMPT // chunk)
    assert row(trace)[3] == max(gap.read for gap in busy)
    plot(trace)
    assert "the prompt arrives" in capsys.readouterr().out
