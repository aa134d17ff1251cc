"""What packed documents ask of torch's attention for them, which runs on accelerators only."""

from typing import Any

import pytest
import torch
from torch import Tensor

from trainers.text.models.attention import Packed

LENGTHS = (3, 2)


@pytest.mark.parametrize(
    ("key_heads", "window", "expected"),
    [
        (4, None, {}),
        (4, 8, {"window_size": (8, 8)}),
        (2, None, {"enable_gqa": True}),
        (2, 8, {"window_size": (8, 8), "enable_gqa": True}),
    ],
)
def test_options_that_older_releases_lack_are_passed_only_where_needed(
    monkeypatch: pytest.MonkeyPatch, key_heads: int, window: int | None, expected: dict[str, Any]
) -> None:
    received: dict[str, Any] = {}

    def varlen_attn(query_THD: Tensor, *_arguments: object, **options: Any) -> Tensor:
        received.update(options)
        return query_THD

    monkeypatch.setattr("trainers.text.models.attention.varlen_attn", varlen_attn)
    query, key = torch.randn(1, 4, sum(LENGTHS), 8), torch.randn(1, key_heads, sum(LENGTHS), 8)
    output = Packed.of(LENGTHS, torch.device("cpu"))._varlen(query, key, key, 0.5, window)
    assert received == {"scale": 0.5, **expected}
    assert torch.equal(output, query)
