"""Small configurations of mlx-lm families, for tests that build them at random."""

from __future__ import annotations

from typing import Any

_BASE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _BASE,
    "qwen2": _BASE,
    "qwen3": _BASE,
    "qwen3_moe": {**_BASE, **_EXPERTS},
    "gemma": _BASE,
    "gemma2": {**_BASE, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": {
        **_BASE,
        "num_hidden_layers": 4,
        "query_pre_attn_scalar": 8,
        "sliding_window": 24,
        "sliding_window_pattern": 2,
        "rope_local_base_freq": 10000.0,
    },
    "phi3": _BASE,
    "olmo2": _BASE,
    "granite": {
        **_BASE,
        "logits_scaling": 1.0,
        "attention_multiplier": 0.35,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "attention_bias": False,
        "mlp_bias": False,
    },
    "smollm3": {**_BASE, "no_rope_layer_interval": 2, "no_rope_layers": [1, 0]},
    "gpt_oss": {
        **_BASE,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_scaling": None,
    },
    "mixtral": {**_BASE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "cohere2": {
        **_BASE,
        "num_hidden_layers": 4,
        "layer_norm_eps": 1e-5,
        "sliding_window": 24,
        "sliding_window_pattern": 2,
        "logit_scale": 1.0,
    },
    "starcoder2": {**_BASE, "norm_epsilon": 1e-5},
    "deepseek_v3": {
        **_BASE,
        "moe_intermediate_size": 16,
        "n_shared_experts": 1,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "qk_nope_head_dim": 8,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
    },
}
