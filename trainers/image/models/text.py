"""Texts as dictionaries of tensors: token ids ("ids/0", "ids/1", ... one for each encoder) or embeddings."""

# B batch, K chunks of a long text, L tokens, D width

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainers.image.models.base import Base, TextSettings

Text = dict[str, Tensor]
"""Of one text without a batch axis; of a batch with it in front."""
Tokenize = Callable[[Base, Sequence[str], TextSettings], list[Text]]
Embed = Callable[[Base, Text, TextSettings], Text]


def text_stack(texts: Sequence[Text]) -> Text:
    """One batch of them. Where long prompts made them unequally long, "mask" (B, L) says which states are real."""
    stacked = {key: _padded([text[key] for text in texts]) for key in texts[0]}
    lengths = [_num_states(text) for text in texts]
    if len(set(lengths)) > 1:
        stacked["mask"] = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    return stacked


def holds_ids(text: Text) -> bool:
    """Whether the text is still to be embedded."""
    return any(key.startswith("ids/") for key in text)


@torch.no_grad()
def encode_one_by_one(
    tokenize: Tokenize, embed: Embed, base: Base, texts: Sequence[str], settings: TextSettings
) -> list[Text]:
    """Embeddings without a batch axis, one text at a time: neighbours would change the last bits on a CPU."""
    found = []
    for ids in tokenize(base, texts, settings):
        embedded = embed(base, {key: value[None] for key, value in ids.items()}, settings)
        found.append({key: value[0] for key, value in embedded.items()})
    return found


def _num_states(text: Text) -> int:
    if "prompt" in text:
        return text["prompt"].shape[0]
    return text["ids/0"].shape[0] * text["ids/0"].shape[1]


def _padded(tensors: Sequence[Tensor]) -> Tensor:
    """Stacked, with zeros behind the shorter ones."""
    longest = max(tensor.shape[0] for tensor in tensors)
    return torch.stack(
        [
            torch.cat([t, t.new_zeros(longest - t.shape[0], *t.shape[1:])]) if t.shape[0] < longest else t
            for t in tensors
        ]
    )
