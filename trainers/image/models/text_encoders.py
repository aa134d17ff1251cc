"""Texts as token ids and embeddings, and the two kinds of text encoders: CLIP and T5.

A text is a dictionary of tensors: token ids ("ids/0", "ids/1", ... one for each encoder) or embeddings.
"""

# B batch, K chunks of a long text, L tokens (of a CLIP chunk: 77), D width, N = B K, P pooled width

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTokenizer, T5Tokenizer

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.core.model_files import tokenizer_open
from trainers.image.models.base import Base, TextSettings

MAX_CHUNKS = 3
"""Chunks of 75 tokens that a long prompt may fill; it is cut after 225 tokens."""
Text = dict[str, Tensor]
"""One text has no batch axis; a batch of texts has it in front."""
Tokenize = Callable[[Base, Sequence[str], TextSettings], list[Text]]
Embed = Callable[[Base, Text, TextSettings], Text]


def text_stack(texts: Sequence[Text]) -> Text:
    """A batch of texts. If their lengths differ, "mask" (B, L) is true for the states that are not padding."""
    stacked = {key: _padded([text[key] for text in texts]) for key in texts[0]}
    lengths = [_num_states(text) for text in texts]
    if len(set(lengths)) > 1:
        stacked["mask"] = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    return stacked


def holds_ids(text: Text) -> bool:
    """Whether the text is not embedded yet."""
    return any(key.startswith("ids/") for key in text)


@torch.no_grad()
def encode_one_by_one(
    tokenize: Tokenize, embed: Embed, base: Base, texts: Sequence[str], settings: TextSettings
) -> list[Text]:
    """Embeddings without a batch axis, one text at a time: neighbours would change the last bits on a CPU."""
    embeddings = []
    for ids in tokenize(base, texts, settings):
        embedded = embed(base, {key: value[None] for key, value in ids.items()}, settings)
        embeddings.append({key: value[0] for key, value in embedded.items()})
    return embeddings


def _num_states(text: Text) -> int:
    if "prompt" in text:
        return text["prompt"].shape[0]
    return text["ids/0"].shape[0] * text["ids/0"].shape[1]


def _padded(tensors: Sequence[Tensor]) -> Tensor:
    """Stacks tensors of different lengths, padded with zeros at their ends."""
    longest = max(tensor.shape[0] for tensor in tensors)
    return torch.stack(
        [
            torch.cat([t, t.new_zeros(longest - t.shape[0], *t.shape[1:])]) if t.shape[0] < longest else t
            for t in tensors
        ]
    )


def clip_tokenizer(folder: Path, part: str = "tokenizer") -> CLIPTokenizer:
    tokenizer: CLIPTokenizer = tokenizer_open(CLIPTokenizer, folder, part)
    return tokenizer


def clip_ids(tokenizer: Any, text: str, *, min_chunks: int = 1, max_chunks: int = MAX_CHUNKS) -> Tensor:
    """Token ids (K, 77), each chunk with its own start and end token; stock diffusers has one chunk."""
    length = tokenizer.model_max_length
    inner = length - 2
    tokens = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    count = min(max(math.ceil(len(tokens) / inner), min_chunks, 1), max_chunks)

    def chunk(index: int) -> list[int]:
        part = tokens[index * inner : (index + 1) * inner]
        padding = [tokenizer.pad_token_id] * (inner - len(part))
        return [tokenizer.bos_token_id, *part, tokenizer.eos_token_id, *padding]

    return torch.tensor([chunk(index) for index in range(count)])


def clip_last(encoder: Any, ids_BKL: Tensor, clip_skip: int) -> Tensor:
    """(B, K L, D) as in Stable Diffusion 1 and 2: the last states, or earlier ones, after the final norm."""
    ids_NL = ids_BKL.flatten(0, 1).to(encoder.device)
    if not clip_skip:
        states_NLD = encoder(ids_NL).last_hidden_state
    else:
        states_NLD = encoder.final_layer_norm(
            _states(encoder, encoder(ids_NL, output_hidden_states=True), clip_skip + 1)
        )
    return _joined(states_NLD, ids_BKL)


def clip_penultimate(encoder: Any, ids_BKL: Tensor, clip_skip: int) -> tuple[Tensor, Tensor]:
    """(B, K L, D) states before the last layer, or earlier ones, and the pooled states of the first chunk, (B, P)."""
    output = encoder(ids_BKL.flatten(0, 1).to(encoder.device), output_hidden_states=True)
    pooled_NP = output.text_embeds if hasattr(output, "text_embeds") else output.pooler_output
    return _joined(_states(encoder, output, clip_skip + 2), ids_BKL), pooled_NP[:: ids_BKL.shape[1]]


def _states(encoder: Any, output: Any, from_end: int) -> Tensor:
    states: tuple[Tensor, ...] = output.hidden_states
    if from_end > len(states):
        layers = encoder.config.num_hidden_layers
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"clip_skip leaves no layer of this base model's text encoder, which has {layers}; lower clip_skip",
        )
    return states[-from_end]


def _joined(states_NLD: Tensor, ids_BKL: Tensor) -> Tensor:
    batch, chunks, _ = ids_BKL.shape
    return states_NLD.reshape(batch, chunks * states_NLD.shape[1], states_NLD.shape[2])


def t5_tokenizer(folder: Path, part: str) -> T5Tokenizer:
    """From tokenizer.json, or from spiece.model alone."""
    if not any((folder / part / name).is_file() for name in ("tokenizer.json", "spiece.model")):
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, f"expected {part}/tokenizer.json or {part}/spiece.model, found neither"
        )
    tokenizer: T5Tokenizer = tokenizer_open(T5Tokenizer, folder, part)
    return tokenizer


def t5_ids(tokenizer: Any, text: str, length: int) -> Tensor:
    """Token ids (L), cut and padded to `length`."""
    return torch.tensor(tokenizer(text, padding="max_length", max_length=length, truncation=True).input_ids)


def t5_states(encoder: Any, ids_BL: Tensor) -> Tensor:
    """(B, L, D)"""
    states_BLD: Tensor = encoder(ids_BL.to(encoder.device)).last_hidden_state
    return states_BLD
