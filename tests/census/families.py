"""What Helix makes of each family of mlx-lm: one row a family, to be changed where that changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.census.sizes import (
    GEMMA4,
    KDA,
    LFM2,
    LONGCAT,
    MAMBA,
    MINICPM,
    PLAIN,
    ROPES,
    SCALED_ROPE,
    SHARED,
)


@dataclass(frozen=True)
class Family:
    """A tiny configuration, and a part of the line that refuses it; none where its text is mlx-lm's.

    `draft_share` is how far the weights of its draft are from the target's, from 0, the target, to 1, any.
    """

    config: dict[str, Any]
    refusal: str = ""
    draft_share: float = 0.03


def exact(**changes: Any) -> Family:
    return Family({**SHARED, **changes})


def refused(refusal: str, **changes: Any) -> Family:
    return Family({**SHARED, **changes}, refusal)


def inner(**changes: Any) -> dict[str, Any]:
    """A configuration within another one, as models that also see have it."""
    return {"text_config": {**SHARED, **changes}}


RECURRENT = "uses a cache of type ArraysCache: recurrent layers are not supported yet"
SEVERAL = "uses a cache of type CacheList: several caches in one layer are not supported yet"
CHUNKS = "uses a cache of type ChunkedKVCache: attention in chunks is not supported yet"
OF_ITS_OWN = "uses a cache of type LayerCache: Helix cannot roll it back"
READ_AGAIN = "reads keys_and_values of its cache, which Helix does not support yet"
ONE_LENGTH = "cannot run sequences of different lengths in one batch"
NEEDS_METAL = "cannot run on this device ([metal_kernel] No Metal back-end)"
OTHER_WINDOW = "caches 24 positions but attends to 25"
SEES_AHEAD = "gives other logits in one pass over several tokens than in single steps"
NOT_INSTALLED = "ai2-olmo"

FAMILIES: dict[str, Family] = {
    "Klear": exact(),
    "afm7": exact(hidden_dim=32, num_layers=2, num_kv_reuse_layers=1, num_heads=4, num_kv_heads=2),
    "afmoe": exact(),
    "apertus": exact(post_norm=True, qk_norm=True),
    "baichuan_m1": exact(sliding_window_layers=[0], conv_window=2),
    "bailing_hybrid": exact(),
    "bailing_moe": exact(),
    "bailing_moe_linear": exact(),
    "bailing_moe_v3": exact(head_dim=32),
    "bitnet": refused(NEEDS_METAL),
    "cohere": exact(),
    "cohere2": exact(),
    "dbrx": exact(
        d_model=32,
        n_layers=2,
        n_heads=4,
        ffn_config={"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
        attn_config={"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
    ),
    "deepseek": exact(),
    "deepseek_v2": exact(
        topk_method="greedy",
        rope_scaling={
            "type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 1024,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "beta_fast": 32,
            "beta_slow": 1,
        },
    ),
    "deepseek_v3": exact(),
    "deepseek_v32": exact(),
    "deepseek_v41": refused(
        OF_ITS_OWN,
        head_dim=32,
        o_groups=2,
        o_lora_rank=16,
        compress_ratios=[0, 4],
        kv_source_layer_ids=[0, 1],
        index_source_layer_ids=[0, 1],
        index_head_dim=32,
        index_topk=8,
        hc_mult=2,
    ),
    "dots1": exact(),
    "ernie4_5": exact(),
    "ernie4_5_moe": exact(),
    "exaone": exact(num_layers=2),
    "exaone4": exact(sliding_window_pattern="LG"),
    "exaone_moe": exact(is_moe_layer=[False, True]),
    "falcon_h1": exact(**MAMBA),
    "gear": exact(
        num_hidden_layers=4,
        layer_types=["conv_mixer", "full_attention", "sliding_attention", "full_attention"],
    ),
    "gemma": exact(),
    "gemma2": exact(),
    "gemma3": exact(**inner(model_type="gemma3_text")),
    "gemma3_text": exact(),
    "gemma3n": exact(
        **inner(
            model_type="gemma3n",
            num_kv_shared_layers=2,
            num_hidden_layers=4,
            layer_types=["sliding_attention", "full_attention"] * 2,
            vocab_size_per_layer_input=96,
            rope_local_base_freq=1e4,
            final_logit_softcapping=30.0,
            activation_sparsity_pattern=[0.5, 0.0] * 2,
            hidden_size_per_layer_input=16,
            altup_num_inputs=2,
            altup_coef_clip=1.0,
            altup_correct_scale=True,
            altup_active_idx=0,
            laurel_rank=8,
        ),
    ),
    "gemma4": exact(**inner(model_type="gemma4_text", **GEMMA4)),
    "gemma4_text": exact(**GEMMA4),
    "glm": exact(),
    "glm4": exact(),
    "glm4_moe": exact(),
    "glm4_moe_lite": exact(num_key_value_heads=4),
    "glm_moe_dsa": exact(num_key_value_heads=4, rope_parameters={"rope_theta": 1e4, "rope_type": "default"}),
    "gpt2": exact(),
    "gpt_bigcode": exact(),
    "gpt_neox": exact(rotary_emb_base=10000, rotary_pct=0.25, num_key_value_heads=4),
    "gpt_oss": exact(),
    "gptj": exact(),
    "granite": exact(),
    "granitemoe": exact(),
    "granitemoehybrid": exact(**MAMBA, layer_types=["mamba", "attention"]),
    "helium": exact(),
    "hunyuan": exact(
        num_shared_expert=1,
        use_mixed_mlp_moe=True,
        use_cla=True,
        cla_share_factor=2,
        moe_intermediate_size=None,
        rope_scaling={"alpha": 1000.0, "factor": 1.0, "type": "dynamic"},
    ),
    "hunyuan_v1_dense": exact(),
    "internlm2": exact(),
    "internlm3": exact(),
    "iquestloopcoder": exact(loop_window_size=24),
    "jamba": exact(**MAMBA, attn_layer_offset=1, attn_layer_period=2, expert_layer_offset=1, expert_layer_period=2),
    "kimi_k25": exact(**inner(model_type="deepseek_v3", num_key_value_heads=4)),
    "kimi_k3": exact(**inner(**KDA, activation_situ_beta=1.0, attn_res_block_size=2)),
    "kimi_linear": exact(**KDA, model_max_length=4096),
    "kimi_vl": exact(**inner(model_type="deepseek_v3", num_key_value_heads=4)),
    "laguna": exact(),
    "lfm2": exact(**LFM2),
    "lfm2-vl": exact(**inner(model_type="lfm2", **LFM2)),
    "lfm2_moe": exact(**LFM2),
    "lille-130m": exact(n_embd=128, n_kv_heads=2, block_size=128),  # its inner width is rounded to 256
    "llama": exact(),
    "llama4": exact(
        **inner(
            model_type="llama4_text",
            num_hidden_layers=4,
            attention_chunk_size=16,
            interleave_moe_layer_step=2,
            intermediate_size_mlp=48,
            num_experts_per_tok=1,
            floor_scale=8,
        ),
    ),
    "llama4_text": exact(intermediate_size_mlp=48, no_rope_layers=[1, 0]),
    "longcat_flash": exact(**LONGCAT),
    "longcat_flash_ngram": exact(**LONGCAT, ngram_vocab_size_ratio=2),
    "mamba": exact(),
    "mamba2": exact(num_heads=4, n_groups=1, time_step_limit=[0.01, 10.0]),
    "mellum": exact(**ROPES),
    "mimo": exact(),
    "mimo_v2_flash": exact(
        hybrid_layer_pattern=[0, 1],
        moe_layer_freq=[0, 1],
        add_swa_attention_sink_bias=True,
        add_full_attention_sink_bias=False,
        sliding_window_size=24,
        swa_rope_theta=1e4,
        swa_num_attention_heads=4,
        swa_num_key_value_heads=2,
        swa_head_dim=8,
        swa_v_head_dim=8,
    ),
    "minicpm": exact(**MINICPM),
    "minicpm3": exact(
        **MINICPM,
        rope_scaling={
            "type": "longrope",
            "long_factor": [1.0] * 4,
            "short_factor": [1.0] * 4,
            "original_max_position_embeddings": 4096,
        },
    ),
    "minimax": exact(),
    "minimax_m3_vl": exact(
        **inner(
            dense_intermediate_size=48,
            index_block_size=8,
            index_topk_blocks=2,
            sparse_attention_freq=[0, 1],
            moe_layer_freq=[0, 1],
        ),
    ),
    "ministral3": exact(**SCALED_ROPE),
    "mistral3": exact(**inner(model_type="llama", **PLAIN)),
    "mistral4": exact(**SCALED_ROPE, head_dim=None, num_key_value_heads=4),
    "mixtral": exact(),
    "muse_glimmer": exact(),
    "muse_spark": refused(
        NEEDS_METAL,
        **inner(
            post_norm_eps=1e-8,
            rope_parameters={"rope_theta": 1e4},
            layer_rope_theta=[1e4, 0],
            final_logit_softcapping=20.0,
            output_multiplier=0.2,
            moe_hidden_size=32,
            num_shared_experts=0,
        ),
    ),
    "nanbeige": exact(num_loops=2),
    "nanochat": exact(),
    "nemotron": exact(hidden_act="relu2"),
    "nemotron-nas": exact(
        num_hidden_layers=4,
        block_configs=[
            {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.0}},
            {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.0}},
            {"attention": {"n_heads_in_group": 1}, "ffn": {"replace_with_linear": True}},
            {"attention": {"n_heads_in_group": 4}, "ffn": {"no_op": True}},
        ],
    ),
    "nemotron_h": exact(**MAMBA, num_hidden_layers=3, layer_types=None, hybrid_override_pattern="*M-"),
    "olmo": refused(NOT_INSTALLED),
    "olmo2": exact(),
    "olmo3": exact(),
    "olmo_hybrid": exact(linear_allow_neg_eigval=True, layer_types=["linear_attention", "full_attention"]),
    "olmoe": exact(),
    "openelm": exact(
        num_transformer_layers=2,
        model_dim=32,
        ffn_dim_divisor=8,
        num_query_heads=[4, 4],
        num_kv_heads=[2, 2],
        ffn_multipliers=[1.0, 2.0],
    ),
    "phi": exact(num_key_value_heads=4),
    "phi3": exact(),
    # It adds its mask as a number. It names ids up to 100351, and MLX would write beyond a smaller vocabulary.
    "phi3small": refused(
        SEES_AHEAD, vocab_size=100352, dense_attention_every_n_layers=2, ff_intermediate_size=48, gegelu_limit=1.0
    ),
    "phimoe": exact(),
    "phixtral": exact(num_vocab=96, model_dim=32, num_heads=4, num_layers=2),
    "pixtral": exact(**inner(model_type="llama", **PLAIN)),
    "plamo": exact(n_shared_head=2),
    "plamo2": exact(hidden_size_per_head=8, attention_window_size=24, mamba_d_state=8, mamba_num_heads=4),
    "plamo3": refused(OTHER_WINDOW),
    "prism_hadamard_qwen35": exact(
        **inner(model_type="qwen3_5_text", num_hidden_layers=4, hidden_size=128, num_experts=0),
        schema_version=1,
        tensor_namespace="mlx-lm-text",
        quantization={"bits": 2, "group_size": 128, "mode": "affine"},
        modules=[{"path": "model.layers.0.mlp.up_proj", "embedding": False, "dtype": "float16", "block": 0}],
    ),
    "qwen": exact(kv_channels=8),
    "qwen2": exact(),
    "qwen2_moe": exact(),
    "qwen2_vl": exact(**inner(model_type="qwen2")),
    "qwen3": exact(),
    "qwen3_5": exact(**inner(model_type="qwen3_5_text", num_hidden_layers=4, num_experts=0)),
    "qwen3_5_moe": exact(**inner(model_type="qwen3_5_moe_text", num_hidden_layers=4)),
    "qwen3_moe": exact(),
    "qwen3_next": exact(num_hidden_layers=4),
    "qwen3_vl": exact(**inner(model_type="qwen3")),
    "qwen3_vl_moe": exact(**inner(model_type="qwen3_moe")),
    "recurrent_gemma": exact(
        num_hidden_layers=4,
        conv1d_width=4,
        logits_soft_cap=30.0,
        attention_window_size=24,
        block_types=["recurrent", "recurrent", "attention"],
    ),
    "rwkv7": exact(a_low_rank_dim=8, v_low_rank_dim=8, gate_low_rank_dim=8, decay_low_rank_dim=8),
    "seed_oss": exact(),
    "smollm3": exact(**PLAIN, no_rope_layers=[1, 0]),
    "solar_open": exact(),
    "spark2_5": exact(**ROPES),
    "stablelm": exact(),
    "starcoder2": exact(),
    "step3p5": exact(
        num_attention_groups=2,
        moe_top_k=2,
        share_expert_dim=16,
        moe_layers_enum="1",
        rope_theta=[1e4, 1e5],
        partial_rotary_factors=[0.5, 1.0],
        attention_other_setting={"num_attention_heads": 8, "num_attention_groups": 2},
    ),
    "talkie": exact(num_key_value_heads=4),
    "telechat3": exact(),
    "youtu_llm": exact(num_key_value_heads=4),
}
