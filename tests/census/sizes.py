"""What makes a family of mlx-lm tiny: each takes the names it knows of these, and its row changes some."""

from __future__ import annotations

from typing import Any

SHARED: dict[str, Any] = {
    # The body.
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    # The same by other names.
    "n_embd": 32,
    "n_inner": 48,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "n_ctx": 256,
    # Norms and biases.
    "rms_norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5,
    "layernorm_epsilon": 1e-5,
    "norm_eps": 1e-5,
    "norm_epsilon": 1e-5,
    "attention_bias": False,
    "mlp_bias": False,
    "use_bias": False,
    "use_qkv_bias": False,
    "use_qk_norm": True,
    # Attention: windows that every prompt but one outgrows, on the first of two layers.
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "partial_rotary_factor": 0.5,
    "rotary_dim": 4,
    "query_pre_attn_scalar": 8,
    "sliding_window": 24,
    "sliding_window_pattern": 2,
    "layer_types": ["sliding_attention", "full_attention"],
    # Attention over latents, and its index.
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 16,
    # Mixtures of experts.
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "num_shared_experts": 1,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "moe_layer_freq": 1,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    # Recurrent layers.
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
    "conv_kernel": 4,
    "state_size": 8,
    "use_conv_bias": True,
    "time_step_rank": 2,
    "layer_group_size": 2,
    "group_norm_size": 1,
    # Multipliers.
    "attention_multiplier": 0.35,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "logits_scaling": 1.0,
}

PLAIN: dict[str, Any] = {"layer_types": None, "sliding_window": None}
ROPES: dict[str, Any] = {
    "rope_parameters": {"sliding_attention": {"rope_theta": 1e4}, "full_attention": {"rope_theta": 1e5}}
}
SCALED_ROPE: dict[str, Any] = {
    "rope_parameters": {
        "rope_theta": 1e4,
        "type": "default",
        "rope_type": "default",
        "llama_4_scaling_beta": 0.1,
        "original_max_position_embeddings": 32,
    }
}
GEMMA4: dict[str, Any] = {
    **ROPES,
    "num_key_value_heads": 1,
    "global_head_dim": 16,
    "vocab_size_per_layer_input": 96,
    "hidden_size_per_layer_input": 8,
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "enable_moe_block": False,
}
LFM2: dict[str, Any] = {
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_dim": 32,
    "block_ff_dim": 48,
    "block_multiple_of": 8,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False,
    "layer_types": ["conv", "full_attention"],
    "full_attn_idxs": [1],
    "use_expert_bias": True,
}
LONGCAT: dict[str, Any] = {
    "attention_method": "MLA",
    "zero_expert_type": "identity",
    "zero_expert_num": 2,
    "num_layers": 2,
    "ffn_hidden_size": 48,
    "expert_ffn_hidden_size": 16,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
}
KDA: dict[str, Any] = {
    "num_key_value_heads": 4,
    "linear_attn_config": {
        "num_heads": 2,
        "head_dim": 32,
        "short_conv_kernel_size": 4,
        "kda_layers": [1],
        "full_attn_layers": [2],
    },
}
MINICPM: dict[str, Any] = {"dim_model_base": 16, "scale_depth": 1.4, "scale_emb": 1.0}
MAMBA: dict[str, Any] = {
    "mamba_n_heads": 4,
    "mamba_num_heads": 4,
    "mamba_d_head": 8,
    "mamba_head_dim": 8,
    "mamba_d_ssm": 32,
    "mamba_d_state": 8,
    "ssm_state_size": 8,
    "mamba_d_conv": 4,
    "mamba_n_groups": 1,
    "n_groups": 1,
    "mamba_expand": 2,
    "mamba_proj_bias": False,
    "mamba_conv_bias": False,
    "time_step_limit": [0.01, 10.0],
}
