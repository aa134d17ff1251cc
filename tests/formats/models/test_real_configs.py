"""Configurations as their authors publish them pass, and what nobody reads is named; dangerous values do not pass.

Keys and values are written from the public files of each model; none of them is copied here whole.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from formats.models.configs import ConfigError
from formats.models.image_configs import BY_CLASS, part_config_clean, pipeline_keys_ignored
from formats.models.image_families import scheduler_config_clean
from formats.models.text_configs import text_config_clean, text_keys_ignored
from formats.models.tokenizer_files import tokenizer_files_read
from foundation.strict_json import JsonError

SD15_UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
SDXL_UNET = SD15_UNET | {
    "_diffusers_version": "0.19.0.dev0",
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "cross_attention_dim": 2048,
    "cross_attention_norm": None,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": 2816,
    "resnet_time_scale_shift": "default",
    "sample_size": 128,
    "time_cond_proj_dim": None,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": None,
    "use_linear_projection": True,
}
SDXL_VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.20.0.dev0",
    "_name_or_path": "../sdxl-vae/",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
SD3_VAE = SDXL_VAE | {
    "latent_channels": 16,
    "latents_mean": None,
    "latents_std": None,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}
SD35_TRANSFORMER: dict[str, Any] = {
    "_class_name": "SD3Transformer2DModel",
    "_diffusers_version": "0.32.0.dev0",
    "attention_head_dim": 64,
    "caption_projection_dim": 1536,
    "dual_attention_layers": list(range(13)),
    "in_channels": 16,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 24,
    "out_channels": 16,
    "patch_size": 2,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "qk_norm": "rms_norm",
    "sample_size": 128,
}
FLUX_TRANSFORMER: dict[str, Any] = {
    "_class_name": "FluxTransformer2DModel",
    "_diffusers_version": "0.30.0.dev0",
    "_name_or_path": "../checkpoints/flux-dev/transformer",
    "attention_head_dim": 128,
    "guidance_embeds": True,
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "patch_size": 1,
    "pooled_projection_dim": 768,
}
CLIP_L: dict[str, Any] = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 49408,
}
T5_XXL: dict[str, Any] = {
    "_name_or_path": "google/t5-v1_1-xxl",
    "architectures": ["T5EncoderModel"],
    "classifier_dropout": 0.0,
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": 24,
    "num_heads": 64,
    "num_layers": 24,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.41.2",
    "use_cache": True,
    "vocab_size": 32128,
}
PARTS: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "SD 1.5 unet": ("UNet2DConditionModel", SD15_UNET, {"_diffusers_version"}),
    "SDXL unet": ("UNet2DConditionModel", SDXL_UNET, {"_diffusers_version"}),
    "SDXL vae": ("AutoencoderKL", SDXL_VAE, {"_diffusers_version", "_name_or_path"}),
    "SD3 vae": ("AutoencoderKL", SD3_VAE, {"_diffusers_version", "_name_or_path"}),
    "SD3.5 transformer": ("SD3Transformer2DModel", SD35_TRANSFORMER, {"_diffusers_version"}),
    "Flux transformer": ("FluxTransformer2DModel", FLUX_TRANSFORMER, {"_diffusers_version", "_name_or_path"}),
    "SD 1.5 text": (
        "CLIPTextModel",
        CLIP_L,
        {"_name_or_path", "architectures", "dropout", "torch_dtype", "transformers_version"},
    ),
    "T5 XXL": (
        "T5EncoderModel",
        T5_XXL,
        {"_name_or_path", "architectures", "output_past", "torch_dtype", "transformers_version"},
    ),
}
PNDM: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "SD 1.5": PNDM,
    "SDXL": PNDM
    | {
        "_class_name": "EulerDiscreteScheduler",
        "interpolation_type": "linear",
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "use_karras_sigmas": False,
    },
    "SD 2.1 DPM": PNDM
    | {
        "_class_name": "DPMSolverMultistepScheduler",
        "algorithm_type": "dpmsolver++",
        "dynamic_thresholding_ratio": 0.995,
        "final_sigmas_type": "zero",
        "lambda_min_clipped": float("-inf"),
        "lower_order_final": True,
        "prediction_type": "v_prediction",
        "solver_order": 2,
        "solver_type": "midpoint",
        "variance_type": None,
    },
    "SD3": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "_diffusers_version": "0.29.0.dev0",
        "num_train_timesteps": 1000,
        "shift": 3.0,
    },
    "Flux": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "_diffusers_version": "0.30.0.dev0",
        "base_image_seq_len": 256,
        "base_shift": 0.5,
        "max_image_seq_len": 4096,
        "max_shift": 1.15,
        "num_train_timesteps": 1000,
        "shift": 3.0,
        "use_dynamic_shifting": True,
    },
}
LLADA: dict[str, Any] = {
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "auto_map": {
        "AutoConfig": "configuration_llada.LLaDAConfig",
        "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
    },
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 4096,
    "embedding_dropout": 0.0,
    "embedding_size": 126464,
    "eos_token_id": 126081,
    "flash_attention": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_cutoff_factor": None,
    "init_device": "meta",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": 126336,
    "max_sequence_length": 4096,
    "mlp_hidden_size": 12288,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "pad_token_id": 126081,
    "precision": "amp_bf16",
    "residual_dropout": 0.0,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "transformers_version": "4.46.3",
    "use_cache": False,
    "vocab_size": 126464,
    "weight_tying": False,
}
QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
DREAM = {key: value for key, value in QWEN3.items() if key not in ("attention_bias", "head_dim")} | {
    "architectures": ["DreamModel"],
    "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
    "mask_token_id": 151666,
    "model_type": "Dream",
    "pad_token_id": 151643,
    "max_position_embeddings": 131072,
    "vocab_size": 152064,
}
LLAMA31 = {key: value for key, value in QWEN3.items() if "window" not in key} | {
    "architectures": ["LlamaForCausalLM"],
    "eos_token_id": [128001, 128008, 128009],
    "mlp_bias": False,
    "model_type": "llama",
    "pretraining_tp": 1,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
}
MODERNBERT: dict[str, Any] = {
    "architectures": ["ModernBertForMaskedLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 50281,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "classifier_dropout": 0.0,
    "classifier_pooling": "mean",
    "cls_token_id": 50281,
    "decoder_bias": True,
    "deterministic_flash_attn": False,
    "embedding_dropout": 0.0,
    "eos_token_id": 50282,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "gradient_checkpointing": False,
    "hidden_activation": "gelu",
    "hidden_size": 768,
    "initializer_cutoff_factor": 2.0,
    "initializer_range": 0.02,
    "intermediate_size": 1152,
    "layer_norm_eps": 1e-05,
    "local_attention": 128,
    "local_rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "model_type": "modernbert",
    "norm_bias": False,
    "norm_eps": 1e-05,
    "num_attention_heads": 12,
    "num_hidden_layers": 22,
    "pad_token_id": 50283,
    "position_embedding_type": "absolute",
    "sep_token_id": 50282,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "transformers_version": "4.47.0.dev0",
    "vocab_size": 50368,
}
BERT: dict[str, Any] = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "transformers_version": "4.6.0.dev0",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}
USUAL = {"architectures", "transformers_version"}
TEXTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "llada": (LLADA, {"auto_map", "transformers_version"}),
    "dream": (DREAM, {"auto_map", *USUAL}),
    "llama": (LLAMA31, USUAL),
    "qwen3": (QWEN3, USUAL),
    "bert": (BERT, {"gradient_checkpointing", *USUAL}),
    "modernbert": (MODERNBERT, {"gradient_checkpointing", "layer_norm_eps", "position_embedding_type", *USUAL}),
}


@pytest.mark.parametrize("name", [*PARTS])
def test_a_published_part_passes_and_unread_keys_are_named(name: str) -> None:
    class_name, config, ignored = PARTS[name]
    cleaned = part_config_clean(config, class_name, "x/config.json")
    assert set(cleaned.ignored) == ignored
    assert cleaned.values == {key: value for key, value in config.items() if key not in ignored}


@pytest.mark.parametrize("name", [*SCHEDULERS])
def test_a_published_scheduler_passes(name: str) -> None:
    cleaned = scheduler_config_clean(SCHEDULERS[name], "scheduler_config.json")
    assert cleaned.ignored == ("_diffusers_version",)


@pytest.mark.parametrize("family", [*TEXTS])
def test_a_published_language_model_passes_and_unread_keys_are_named(family: str) -> None:
    config, ignored = TEXTS[family]
    cleaned = text_config_clean(config, family)
    assert set(cleaned.ignored) == ignored
    assert cleaned.values == {key: value for key, value in config.items() if key not in ignored}


BAD_NUMBERS: tuple[Any, ...] = (-1, 0, 10**9, 1e300, "__import__", "/etc/passwd", True, None, [], {}, "https://x.y/z")


@pytest.mark.parametrize("value", BAD_NUMBERS, ids=repr)
@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings"])
def test_an_absurd_size_is_refused_with_key_value_and_expectation(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        text_config_clean(QWEN3 | {key: value}, "qwen3")
    assert str(caught.value).startswith(f"config.json: {key} is ")
    assert "expected a whole number from 1 to " in str(caught.value)


@pytest.mark.parametrize("value", BAD_NUMBERS, ids=repr)
@pytest.mark.parametrize("key", ["num_train_timesteps", "beta_start", "beta_end"])
def test_an_absurd_scheduler_value_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"scheduler_config.json: {key} is .*, expected a "):
        scheduler_config_clean(PNDM | {key: value}, "scheduler_config.json")


@pytest.mark.parametrize("value", ["evil/kernels", "kernels-community/flash-attn", "os.system", "/tmp/x", 1])
def test_an_attention_of_the_hub_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"_attn_implementation is .*, expected eager or sdpa"):
        text_config_clean(QWEN3 | {"_attn_implementation": value}, "qwen3")
    assert "_attn_implementation" in text_config_clean(QWEN3 | {"_attn_implementation": "sdpa"}, "qwen3").ignored


HUGE_VOCABULARY = 10**8


@pytest.mark.parametrize("class_name", [*BY_CLASS])
def test_every_string_key_of_a_part_refuses_paths_urls_and_imports(class_name: str) -> None:
    config = next((config for name, config, _ in PARTS.values() if name == class_name), CLIP_L)
    strings = [key for key, value in config.items() if isinstance(value, str) and key in BY_CLASS[class_name]]
    for key in strings:
        for value in ("/etc/passwd", "../../x", "https://x.y/z", "os.system", "a/b"):
            with pytest.raises(ConfigError, match=f"{key} is '"):
                part_config_clean(config | {key: value}, class_name, "x/config.json")


def test_a_huge_vocabulary_is_refused_in_every_family() -> None:
    for family, (config, _) in TEXTS.items():
        with pytest.raises(ConfigError, match="vocab_size is 100000000, expected a whole number from 1 to 2000000"):
            text_config_clean(config | {"vocab_size": HUGE_VOCABULARY}, family)


def test_several_faults_are_named_together() -> None:
    with pytest.raises(ConfigError) as caught:
        text_config_clean(QWEN3 | {"vocab_size": 0, "rope_theta": -1}, "qwen3")
    assert [fault.split(" is ")[0] for fault in caught.value.faults] == [
        "config.json: rope_theta",
        "config.json: vocab_size",
    ]


TOKENIZER_CONFIG: dict[str, Any] = {
    "add_prefix_space": False,
    "added_tokens_decoder": {
        "49406": {
            "content": "<|startoftext|>",
            "lstrip": False,
            "normalized": True,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
    },
    "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
    "bos_token": {
        "__type": "AddedToken",
        "content": "<|startoftext|>",
        "lstrip": False,
        "normalized": True,
        "rstrip": False,
        "single_word": False,
    },
    "clean_up_tokenization_spaces": True,
    "do_lower_case": True,
    "eos_token": "<|endoftext|>",
    "errors": "replace",
    "model_max_length": 77,
    "name_or_path": "openai/clip-vit-large-patch14",
    "pad_token": "<|endoftext|>",
    "special_tokens_map_file": "./special_tokens_map.json",
    "tokenizer_class": "CLIPTokenizer",
    "unk_token": "<|endoftext|>",
}


def test_a_published_tokenizer_passes_and_unread_keys_are_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG | {"model_max_length": int(1e30)}))
    files = tokenizer_files_read(tmp_path, "tokenizer/")
    assert files.class_name == "CLIPTokenizer"
    assert files.ignored == tuple(
        f"tokenizer/tokenizer_config.json {key}" for key in ("auto_map", "name_or_path", "special_tokens_map_file")
    )


@pytest.mark.parametrize(
    ("named", "class_name"),
    [
        ("PreTrainedTokenizerFast", "PreTrainedTokenizerFast"),
        ("TokenizersBackend", "PreTrainedTokenizerFast"),
        ("BertTokenizerFast", "BertTokenizer"),
        ("LlamaTokenizerFast", "LlamaTokenizer"),
        ("DreamTokenizer", None),
        ("FlaubertTokenizer", None),
        ("evil.module.Tokenizer", None),
        (5, None),
    ],
)
def test_an_unlisted_tokenizer_class_is_ignored_and_named(tmp_path: Path, named: Any, class_name: str | None) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named}))
    files = tokenizer_files_read(tmp_path)
    assert files.class_name == class_name
    assert bool(files.ignored) == (class_name is None)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", {"model": {"vocab": "/etc/passwd"}}, "vocab is '/etc/passwd', expected an object of ids"),
        ("tokenizer.json", {"model": {"merges": "/etc/passwd"}}, "merges is '/etc/passwd', expected a list of pairs"),
        ("tokenizer.json", {"model": {"type": "Evil"}}, "type is 'Evil', expected BPE or WordPiece"),
        ("tokenizer.json", {"normalizer": {"type": "Evil"}}, "normalizer: type is 'Evil', expected one of"),
        ("tokenizer.json", {"padding": {"strategy": {"Fixed": 10**9}}}, "padding is "),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a" * 5000}}}, "Regex is "),
        ("vocab.json", {"a": "/etc/passwd"}, "'a' is '/etc/passwd', expected a token and a whole number"),
        ("added_tokens.json", {"a": -1}, "'a' is -1, expected a token and"),
        ("special_tokens_map.json", {"bos_token": {"content": "a", "path": "b"}}, "bos_token is "),
        ("tokenizer_config.json", {"extra_ids": 10**9}, "extra_ids is 1000000000, expected a whole number"),
        ("tokenizer_config.json", {"model_max_length": -1}, "model_max_length is -1, expected a number"),
        ("tokenizer_config.json", {"padding_side": "/x"}, "padding_side is '/x', expected right or left"),
        ("tokenizer_config.json", {"chat_template": ["/x"]}, "chat_template is "),
    ],
)
def test_a_hostile_tokenizer_file_is_refused(tmp_path: Path, file: str, content: Any, message: str) -> None:
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        tokenizer_files_read(tmp_path, "tokenizer/")
    assert str(caught.value).startswith(f"tokenizer/{file}") and message in str(caught.value)


def test_100000_brackets_and_duplicate_keys_are_refused_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": ' + "[" * 100_000)
    with pytest.raises(JsonError, match=r"tokenizer.json: nested too deeply"):
        tokenizer_files_read(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {}, "vocab": {}}}')
    with pytest.raises(JsonError, match=r"tokenizer.json: duplicate key 'vocab'"):
        tokenizer_files_read(tmp_path)


@pytest.mark.parametrize("example", ["shapes", "sums"])
def test_our_own_examples_pass(example: str) -> None:
    base = Path(__file__).parents[3] / "examples" / example / "base"
    ignored = pipeline_keys_ignored(base) if example == "shapes" else text_keys_ignored(base, "llada")
    assert not [key for key in ignored if "vocab" in key.split()[-1]]


@pytest.mark.acceptance
@pytest.mark.parametrize("name", ["bert-base-uncased", "clip-vit-large-patch14", "gpt2", "qwen3-0.6b", "t5-v1_1"])
def test_the_public_tokenizers_pass(shared_data: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(shared_data / "tokenizers" / name, tmp_path / name))
    files = tokenizer_files_read(folder)
    assert files.ignored == () and (files.json.keys() | set(files.data))


@pytest.mark.acceptance
@pytest.mark.parametrize(("name", "family"), [("bert-base-uncased", "bert"), ("qwen3-0.6b", "qwen3")])
def test_the_public_configs_pass(shared_data: Path, name: str, family: str) -> None:
    raw = json.loads((shared_data / "tokenizers" / name / "config.json").read_text())
    assert set(text_config_clean(raw, family).ignored) <= USUAL
