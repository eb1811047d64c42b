from __future__ import annotations

from helix_mlx.bench.fixtures.models import small_pair
from helix_mlx.bench.studies.first_token import AGAIN, ANSWER, COLD, MESSAGE, SECOND, conversation, show
from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine


def test_what_an_engine_has_read_is_not_read_again() -> None:
    config = EngineConfig()
    with Engine(small_pair(512), config) as engine:
        seen = conversation(engine, 60, seed=0)
    cold, again, second = (seen[name] for name in (COLD, AGAIN, SECOND))
    assert (cold.prompt_tokens, cold.prefill_tokens, cold.prefix_hit_tokens) == (60, 60, 0)
    assert (again.prompt_tokens, again.new) == (60, 0)
    assert 0 < again.prefill_tokens <= config.page_size
    assert (second.prompt_tokens, second.new) == (60 + ANSWER + MESSAGE, MESSAGE)
    assert MESSAGE <= second.prefill_tokens <= MESSAGE + config.page_size + 1
    for each in seen.values():
        assert each.prefill_tokens + each.prefix_hit_tokens == each.prompt_tokens
    show({name: [each, each] for name, each in seen.items()})
