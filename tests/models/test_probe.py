"""What a model has to be to run over pages, and the line that refuses one that is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import CacheList, KVCache, make_prompt_cache

import helix_mlx.models
from helix_mlx.engine.engine import load
from helix_mlx.errors import ModelError
from helix_mlx.models.families.registry import CHANGES
from helix_mlx.models.loader import LoadedModel
from helix_mlx.models.pair import Pair
from helix_mlx.models.probe import check_rows, probe
from helix_mlx.models.text.shared_vocabulary import SharedVocabulary
from tests.census.families import FAMILIES
from tests.support import VOCAB, as_loaded, built, byte_tokenizer, plain, prompt, random_model, untouched

Change = Callable[[Any, mx.array, Sequence[Any]], mx.array]


class Changed:
    """A model whose pass is another one's, changed: it has the other's caches."""

    def __init__(self, model: Any, change: Change) -> None:
        self._model, self._change = model, change

    def make_cache(self) -> list[Any]:
        return make_prompt_cache(self._model)

    def named_modules(self) -> list[tuple[str, Any]]:
        return self._model.named_modules()

    def __call__(self, inputs: mx.array, cache: Sequence[Any] | None = None) -> mx.array:
        assert cache is not None
        return self._change(self._model, inputs, cache)


class OneOffset:
    """A layer's cache that gives the first sequence's position for those of all."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._cache, name)
        return found[:1] if name == "offset" and isinstance(found, mx.array) else found


def check(family: str, change: Change) -> None:
    loaded = random_model(family)
    check_rows(Changed(loaded.model, change), loaded.probed, loaded.config)


def test_a_model_of_one_length_is_refused_at_once() -> None:
    def of_one_length(model: Any, inputs: mx.array, cache: Sequence[Any]) -> mx.array:
        logits = model(inputs, cache=cache)
        return logits + int(cache[0].offset)

    loaded = random_model("llama")
    with pytest.raises(ModelError, match="'llama' cannot run sequences of different lengths"):
        probe(Changed(loaded.model, of_one_length), loaded.config)


class OddCache(KVCache):
    """Of a kind that nobody knows."""


def test_a_layer_that_keeps_something_else_is_named_with_its_model_type() -> None:
    loaded = random_model("llama")
    odd = Changed(loaded.model, lambda model, inputs, cache: model(inputs, cache=cache))
    odd.make_cache = lambda: [KVCache(), CacheList(KVCache(), OddCache())]  # type: ignore[method-assign]
    with pytest.raises(ModelError) as refusal:
        probe(odd, loaded.config)
    words = "layer 1 of model type 'llama' uses a cache of type OddCache: Helix cannot roll it back; "
    assert str(refusal.value) == words + "choose another model"


def test_a_recurrent_layer_that_nobody_knows_is_named_with_its_model_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helix_mlx.recurrent.install.LAYERS", {})
    with pytest.raises(ModelError, match="layer 0 of model type 'gear' has a recurrent state"):
        built({**FAMILIES["gear"].config, "model_type": "gear"}, 0)


def test_an_index_beside_the_keys_takes_its_keys_in_the_pages_and_no_values() -> None:
    """DeepSeek's model stores the keys of its index twice, and MiniMax's values without dimensions."""
    deepseek = built({**FAMILIES["deepseek_v32"].config, "model_type": "deepseek_v32"}, 0)
    assert [(s.key_dim, s.value_dim, s.keys_only) for s in deepseek.layers] == [(16, 8, False), (16, 1, True)] * 2
    minimax = built({**FAMILIES["minimax_m3_vl"].config, "model_type": "minimax_m3_vl"}, 0)
    assert [(s.value_dim, s.keys_only) for s in minimax.layers] == [(8, False), (1, True), (8, False)]


def test_an_adapted_model_goes_on_as_before_with_caches_of_mlx_lm() -> None:
    """And mlx-lm's own classes stay as they are, for models that others load."""
    for family in sorted({place for place, _ in CHANGES}):
        config = {**FAMILIES[family].config, "model_type": family}
        model, text = untouched(config, 0), prompt(40)
        before = plain(model, text, 6)
        assert plain(as_loaded(model, config).model, text, 6) == before
        assert not any(hasattr(type(each), "given_functions") for each in untouched(config, 0).modules())


def test_a_layer_that_keeps_nothing_is_named() -> None:
    blocks = [{"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.0}}] * 3
    blocks.append({"attention": {"replace_with_linear": True}, "ffn": {"ffn_mult": 1.0}})
    changes = {"block_configs": blocks, "model_type": "nemotron-nas"}
    with pytest.raises(ModelError, match="layer 3 of model type 'nemotron-nas' has no keys and values"):
        built({**FAMILIES["nemotron-nas"].config, **changes}, 0)


def test_a_window_that_mlx_lm_does_not_keep_is_refused() -> None:
    """Its single steps look at all positions, and its passes of several rows at those of the window."""
    with pytest.raises(ModelError, match="layer 0 of model type 'smollm3' caches all positions but attends to 24"):
        random_model("smollm3", sliding_window=24, layer_types=["sliding_attention", "full_attention"])


def test_a_model_that_sees_later_tokens_is_refused() -> None:
    def seeing(model: Any, inputs: mx.array, cache: Sequence[Any]) -> mx.array:
        logits = model(inputs, cache=cache)
        return logits + 0.1 * logits.mean(axis=1, keepdims=True)

    with pytest.raises(
        ModelError, match=r"gemma3_text' gives other logits in one pass .*caches: 2 RotatingKVCache, 2 KVCache\)"
    ):
        check("gemma3_text", seeing)


def test_a_model_that_has_one_position_for_all_sequences_is_refused() -> None:
    with pytest.raises(ModelError, match="gives other logits in one pass over several tokens than in single steps"):
        check("llama", lambda model, inputs, cache: model(inputs, cache=[OneOffset(each) for each in cache]))


def test_logits_that_are_no_numbers_in_some_passes_are_refused() -> None:
    """In all of them they are the weights' fault, which whoever asks is told."""
    with pytest.raises(ModelError, match=r"\(by nan"):
        check("llama", lambda model, inputs, cache: model(inputs, cache=cache) * (1 if inputs.size < 3 else mx.nan))
    check("llama", lambda model, inputs, cache: model(inputs, cache=cache) * mx.nan)


def test_a_model_that_the_device_cannot_run_is_refused_in_its_words() -> None:
    def failing(model: Any, inputs: mx.array, cache: Sequence[Any]) -> mx.array:
        raise RuntimeError("[metal_kernel] No Metal back-end.\nmore")

    with pytest.raises(ModelError) as refusal:
        check("llama", failing)
    words = "model type 'llama' cannot run on this device ([metal_kernel] No Metal back-end); choose another model"
    assert str(refusal.value) == words


def test_a_model_that_reads_what_pages_have_not_is_refused_for_that() -> None:
    def sizing(model: Any, inputs: mx.array, cache: Sequence[Any]) -> mx.array:
        assert cache[0].nbytes >= 0
        return model(inputs, cache=cache)

    with pytest.raises(ModelError, match=r"'llama' cannot run over Helix's pages \(.*no attribute 'nbytes'\)"):
        check("llama", sizing)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_rounding_and_ids_that_are_never_said_are_no_difference(dtype: mx.Dtype) -> None:
    """Rounded in a pass of several rows only, as a GPU may."""
    never = mx.arange(VOCAB) >= VOCAB - 6

    def rounding(model: Any, inputs: mx.array, cache: Sequence[Any]) -> mx.array:
        logits = model(inputs, cache=cache).astype(dtype)
        steps = 2.0**-18 if dtype == mx.float32 else 2.0**-5
        rounded = mx.round(logits / steps) * steps if inputs.shape[1] > 1 else logits
        return mx.where(never, mx.array(-mx.inf, dtype), rounded)

    check("llama", rounding)


def test_a_draft_is_checked_behind_its_vocabulary() -> None:
    def pair(draft: LoadedModel) -> Pair:
        ids = mx.arange(VOCAB)
        shared = SharedVocabulary(draft.model, ids, ids < VOCAB)
        return Pair("p", random_model("llama"), replace(draft, model=shared), byte_tokenizer())

    draft = random_model("llama", 7)
    pair(draft).check()
    wrong: Any = Changed(draft.model, lambda model, inputs, cache: model(inputs, cache=cache) * inputs.shape[1])
    with pytest.raises(ModelError, match="gives other logits"):
        pair(replace(draft, model=wrong)).check()


def test_loading_refuses_what_answers_by_the_width_of_its_pass(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(Path(helix_mlx.models.__file__).parent / "tiny" / "draft", tmp_path / "m"))
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("{", '{"model_file": "model.py",', 1))
    (folder / "model.py").write_text(
        "from mlx_lm.models import llama\n"
        "from mlx_lm.models.llama import ModelArgs\n"
        "class Model(llama.Model):\n"
        "    def __call__(self, inputs, cache=None):\n"
        "        return super().__call__(inputs, cache) * inputs.shape[1]\n"
    )
    with pytest.raises(ModelError, match="gives other logits in one pass over several tokens"):
        load(target=str(folder), draft="none", trust_remote_code=True)
