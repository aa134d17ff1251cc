"""Tiny text models with random weights in their original formats: config, tensor names, shards, tokenizer files.

The names and shapes are written out here from the models' own papers and files, not taken from the loader.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

WIDTH, INNER, LAYERS, HEADS = 32, 64, 2, 4
SPREAD = 0.15
"""Standard deviation of every matrix: enough that each token sees its neighbours."""
LLADA_SPECIALS = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|mdm_mask|>",
)
DREAM_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>")
QWEN_SPECIALS = DREAM_SPECIALS[:3]
LLAMA_SPECIALS = ("<s>", "</s>")
MODERNBERT_SPECIALS = ("[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]")
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("a", "n"), ("o", "n")]


def build_tiny_llada(folder: Path, *, seed: int = 0, kv_heads: int = HEADS, shards: int = 2) -> Path:
    """`model_type` "llada", OLMo's names, sharded; the mask token is in the tokenizer and in the config."""
    tokens = byte_tokenizer_write(folder, LLADA_SPECIALS, bos="<|startoftext|>", eos="<|endoftext|>")
    ids = {name: tokens[name] for name in LLADA_SPECIALS}
    vocab = len(tokens) + 3
    config = {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
        "activation_type": "silu",
        "alibi": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": WIDTH,
        "n_heads": HEADS,
        "n_kv_heads": kv_heads,
        "n_layers": LAYERS,
        "mlp_hidden_size": INNER,
        "mlp_ratio": 4,
        "vocab_size": vocab,
        "embedding_size": vocab,
        "max_sequence_length": 256,
        "rope": True,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "layer_norm_type": "rms",
        "include_bias": False,
        "include_qkv_bias": False,
        "weight_tying": False,
        "eos_token_id": ids["<|endoftext|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "mask_token_id": ids["<|mdm_mask|>"],
    }
    checkpoint_write(folder, config, llada_tensors(vocab, kv_heads, seed), shards)
    return folder


def llada_tensors(vocab: int, kv_heads: int, seed: int) -> dict[str, Tensor]:
    narrow = WIDTH // HEADS * kv_heads
    shapes: dict[str, tuple[int, ...]] = {"model.transformer.wte.weight": (vocab, WIDTH)}
    for layer in range(LAYERS):
        block = f"model.transformer.blocks.{layer}."
        shapes |= {
            f"{block}attn_norm.weight": (WIDTH,),
            f"{block}ff_norm.weight": (WIDTH,),
            f"{block}q_proj.weight": (WIDTH, WIDTH),
            f"{block}k_proj.weight": (narrow, WIDTH),
            f"{block}v_proj.weight": (narrow, WIDTH),
            f"{block}attn_out.weight": (WIDTH, WIDTH),
            f"{block}ff_proj.weight": (INNER, WIDTH),
            f"{block}up_proj.weight": (INNER, WIDTH),
            f"{block}ff_out.weight": (WIDTH, INNER),
        }
    shapes |= {"model.transformer.ln_f.weight": (WIDTH,), "model.transformer.ff_out.weight": (vocab, WIDTH)}
    return random_tensors(shapes, seed)


def build_tiny_dream(folder: Path, *, seed: int = 0, shards: int = 2) -> Path:
    """`model_type` "Dream", Qwen2's names; tokenizer from vocab.json + merges.txt by a class that is remote code."""
    tokens = bpe_files_write(folder, DREAM_SPECIALS, bos=None, eos="<|endoftext|>", pad="<|endoftext|>")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer |= {"tokenizer_class": "DreamTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_dream.X", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    vocab = len(tokens) + 4
    config = {
        "architectures": ["DreamModel"],
        "model_type": "Dream",
        "auto_map": {"AutoModel": "modeling_dream.DreamModel"},
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "sliding_window": None,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "vocab_size": vocab,
        "bos_token_id": tokens["<|endoftext|>"],
        "eos_token_id": tokens["<|endoftext|>"],
        "pad_token_id": tokens["<|endoftext|>"],
        "mask_token_id": tokens["<|mask|>"],
    }
    checkpoint_write(folder, config, dream_tensors(vocab, seed), shards)
    return folder


def dream_tensors(vocab: int, seed: int) -> dict[str, Tensor]:
    narrow = WIDTH // HEADS * 2
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, WIDTH)}
    for layer in range(LAYERS):
        block = f"model.layers.{layer}."
        shapes |= {
            f"{block}input_layernorm.weight": (WIDTH,),
            f"{block}post_attention_layernorm.weight": (WIDTH,),
            f"{block}self_attn.q_proj.weight": (WIDTH, WIDTH),
            f"{block}self_attn.q_proj.bias": (WIDTH,),
            f"{block}self_attn.k_proj.weight": (narrow, WIDTH),
            f"{block}self_attn.k_proj.bias": (narrow,),
            f"{block}self_attn.v_proj.weight": (narrow, WIDTH),
            f"{block}self_attn.v_proj.bias": (narrow,),
            f"{block}self_attn.o_proj.weight": (WIDTH, WIDTH),
            f"{block}mlp.gate_proj.weight": (INNER, WIDTH),
            f"{block}mlp.up_proj.weight": (INNER, WIDTH),
            f"{block}mlp.down_proj.weight": (WIDTH, INNER),
        }
    return random_tensors(shapes | {"model.norm.weight": (WIDTH,), "lm_head.weight": (vocab, WIDTH)}, seed)


def build_tiny_bert(folder: Path, *, seed: int = 0) -> Path:
    """As transformers saves BertForMaskedLM: 512 positions, wordpieces of single letters and some words."""
    words = ["the", "cat", "dog", "is", "one", "two", "three", "question", "answer", "plus"]
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = [*BERT_SPECIALS, *letters, *(f"##{letter}" for letter in letters), *words]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=512,
        pad_token_id=0,
    )
    return model_write(folder, BertForMaskedLM, config, seed)


def build_tiny_modernbert(folder: Path, *, seed: int = 0) -> Path:
    """Three layers, so that one sees all and two see 8 tokens to either side."""
    tokens = byte_tokenizer_write(folder, MODERNBERT_SPECIALS, cls="[CLS]", sep="[SEP]", pad="[PAD]", mask="[MASK]")
    config = ModernBertConfig(
        vocab_size=len(tokens) + 1,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        max_position_embeddings=256,
        local_attention=16,
        pad_token_id=tokens["[PAD]"],
        eos_token_id=tokens["[SEP]"],
        bos_token_id=tokens["[CLS]"],
        cls_token_id=tokens["[CLS]"],
        sep_token_id=tokens["[SEP]"],
    )
    return model_write(folder, ModernBertForMaskedLM, config, seed)


def build_tiny_llama(folder: Path, *, seed: int = 0, spare_rows: int = 4, tied: bool = False) -> Path:
    """A causal checkpoint without a mask token."""
    tokens = byte_tokenizer_write(folder, LLAMA_SPECIALS, bos="<s>", eos="</s>")
    config = LlamaConfig(
        vocab_size=len(tokens) + spare_rows,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=tokens["<s>"],
        eos_token_id=tokens["</s>"],
        tie_word_embeddings=tied,
    )
    return model_write(folder, LlamaForCausalLM, config, seed)


def build_tiny_qwen2(folder: Path, *, seed: int = 0, spare_rows: int = 4) -> Path:
    return _qwen(folder, Qwen2Config, Qwen2ForCausalLM, seed, spare_rows)


def build_tiny_qwen3(folder: Path, *, seed: int = 0, spare_rows: int = 4) -> Path:
    return _qwen(folder, Qwen3Config, Qwen3ForCausalLM, seed, spare_rows, head_dim=16)


BUILDERS: dict[str, Callable[..., Path]] = {
    "llada": build_tiny_llada,
    "dream": build_tiny_dream,
    "bert": build_tiny_bert,
    "modernbert": build_tiny_modernbert,
    "llama": build_tiny_llama,
    "qwen2": build_tiny_qwen2,
    "qwen3": build_tiny_qwen3,
}
"""By family; each makes a folder and returns it."""


def byte_letters() -> list[str]:
    """The printable letter that stands for each byte in GPT-2's vocabulary."""
    stored = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in stored] + [chr(256 + i) for i in range(256 - len(stored))]


def byte_tokenizer_write(folder: Path, specials: tuple[str, ...], **roles: str) -> dict[str, int]:
    """tokenizer.json and tokenizer_config.json of a byte-level BPE; `roles` are bos, eos, ...; ids by token."""
    vocabulary = _vocabulary()
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=MERGES))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(specials))
    folder.mkdir(parents=True, exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    named = {f"{role}_token": token for role, token in roles.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | named))
    return vocabulary | {token: len(vocabulary) + index for index, token in enumerate(specials)}


def bpe_files_write(folder: Path, specials: tuple[str, ...], **roles: str | None) -> dict[str, int]:
    """vocab.json, merges.txt and tokenizer_config.json as Qwen ships them; ids by token."""
    vocabulary = _vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in MERGES))
    added = {
        str(len(vocabulary) + index): {"content": token, "special": True, "lstrip": False, "rstrip": False}
        for index, token in enumerate(specials)
    }
    named = {f"{role}_token": token for role, token in roles.items()}
    config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return vocabulary | {token: len(vocabulary) + index for index, token in enumerate(specials)}


def checkpoint_write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], shards: int) -> None:
    """config.json and the tensors, spread over `shards` files with an index as the Hub has them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for index in range(shards):
        file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in list(tensors)[index::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def model_write(folder: Path, model_class: Any, config: Any, seed: int) -> Path:
    """A native model as transformers saves it. The global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, SPREAD)
                else:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {name: x * SPREAD if x.ndim > 1 else 1 + 0.1 * x for name, x in drawn.items()}


def _vocabulary() -> dict[str, int]:
    words = [*byte_letters(), *(a + b for a, b in MERGES)]
    return {word: index for index, word in enumerate(words)}


def _qwen(folder: Path, config_class: Any, model_class: Any, seed: int, spare_rows: int, **extra: Any) -> Path:
    tokens = bpe_files_write(folder, QWEN_SPECIALS, eos="<|im_end|>", pad="<|endoftext|>")
    config = config_class(
        vocab_size=len(tokens) + spare_rows,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        eos_token_id=tokens["<|im_end|>"],
        pad_token_id=tokens["<|endoftext|>"],
        **extra,
    )
    return model_write(folder, model_class, config, seed)
