"""Weights: headers that lie, values that are not finite, parts that do not fit."""

import json
import math
import struct
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.catalog.checking.model import check
from api.catalog.checking.report import Refused
from api.catalog.checking.tensor_files import nonfinite_count
from tests.api.actors import Files, base_model
from tests.api.catalog.checking.conftest import WorkOf

UNET = "unet/diffusion_pytorch_model.safetensors"
FORMATS = {"F64": "d", "F32": "f", "F16": "e"}


def weights(**tensors: tuple[str, tuple[int, ...], bytes]) -> bytes:
    """A safetensors file of {name: (dtype, shape, data)}."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return raw_file(header, data)


def raw_file(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("dtype", sorted(FORMATS))
@given(values=st.lists(st.floats(width=16), max_size=40))
def test_what_is_not_finite_is_counted(dtype: str, values: list[float]) -> None:
    raw = struct.pack(f"<{len(values)}{FORMATS[dtype]}", *values)
    expected = sum(not math.isfinite(value) for value in values)
    assert nonfinite_count(BytesIO(raw), 0, len(raw), dtype) == expected


@given(words=st.lists(st.integers(0, 0xFFFF), max_size=60))
def test_bf16_is_the_upper_half_of_fp32(words: list[int]) -> None:
    raw = struct.pack(f"<{len(words)}H", *words)
    wide = struct.unpack(f"<{len(words)}f", b"".join(struct.pack("<HH", 0, word) for word in words))
    assert nonfinite_count(BytesIO(raw), 0, len(raw), "BF16") == sum(not math.isfinite(value) for value in wide)


def test_eight_bits_have_their_own_patterns() -> None:
    every = bytes(range(256))
    assert nonfinite_count(BytesIO(every), 0, 256, "F8_E4M3") == 2
    assert nonfinite_count(BytesIO(every), 0, 256, "F8_E5M2") == 8
    assert nonfinite_count(BytesIO(every), 0, 256, "I8") == 0


def test_large_tensors_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.catalog.checking.tensor_files.PIECE_BYTES", 16)
    raw = struct.pack("<40f", *[math.nan if n % 7 == 0 else 3e38 for n in range(40)])
    assert nonfinite_count(BytesIO(b"head" + raw), 4, len(raw), "F32") == 6


def test_a_tensor_that_is_not_finite_is_named(work_of: WorkOf) -> None:
    bad = weights(fine=("F32", (2,), bytes(8)), broken=("F16", (3,), struct.pack("<3e", 1, math.inf, math.nan)))
    with pytest.raises(Refused, match="tensor 'broken' has 2 of 3 values that are not finite") as caught:
        check(work_of({**base_model(), UNET: bad}))
    assert caught.value.code == "nonfinite_weights"


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


LIES = [
    ({"a": entry(), "b": entry()}, bytes(16)),
    ({"a": entry(offsets=(8, 16)), "b": entry(offsets=(8, 16))}, bytes(16)),
    ({"a": entry(offsets=(-8, 0))}, bytes(8)),
    ({"a": entry(shape=(-2,))}, bytes(8)),
    ({"a": entry(shape=(2**40, 2**40))}, bytes(8)),
    ({"a": entry(shape=(True, 2))}, bytes(8)),
    ({"a": entry(dtype="F7")}, bytes(8)),
    ({"a": entry(dtype=["F32"])}, bytes(8)),
    ({"a": entry(offsets=(0, 8, 9))}, bytes(8)),
    ({"a": 5}, bytes(8)),
    ([], b""),
]


@pytest.mark.parametrize(("header", "data"), LIES)
def test_a_header_that_lies_is_refused(work_of: WorkOf, header: Any, data: bytes) -> None:
    with pytest.raises(Refused, match=UNET):
        check(work_of({**base_model(), UNET: raw_file(header, data)}))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"unet/config.json": b'{"cross_attention_dim": 768}', "text_encoder/config.json": b'{"hidden_size": 32}'},
            "cross_attention_dim is 768, but text_encoder/config.json hidden_size says 32",
        ),
        (
            {"unet/config.json": b'{"in_channels": 4}', "vae/config.json": b'{"latent_channels": 16}'},
            "in_channels is 4, but vae/config.json latent_channels says 16",
        ),
        (
            {
                "unet/config.json": b'{"in_channels": 4}',
                UNET: weights(**{"conv_in.weight": ("F16", (2, 9, 1, 1), bytes(36))}),
            },
            "conv_in.weight input channels is 9, but unet/config.json says 4",
        ),
    ],
)
def test_parts_of_different_models_are_refused(work_of: WorkOf, files: Files, message: str) -> None:
    with pytest.raises(Refused, match="the parts are of different models") as caught:
        check(work_of({**base_model(), **files}))
    assert message in str(caught.value)


def lora(width: int, rank: int = 2, up_rank: int = 2) -> bytes:
    down = ("F32", (rank, width), bytes(4 * rank * width))
    up = ("F32", (width, up_rank), bytes(4 * up_rank * width))
    return weights(**{"unet.to_q.lora_A.weight": down, "unet.to_q.lora_B.weight": up})


def test_a_lora_beside_the_weights_must_fit_them(work_of: WorkOf) -> None:
    files = {**base_model(), UNET: weights(**{"to_q.weight": ("F16", (6, 6), bytes(72))}), "x.safetensors": lora(6)}
    work = work_of(files)
    check(work)
    assert "a LoRA of 1 module" in work.notices.listed[0]["message"]


@pytest.mark.parametrize(
    ("data", "message"), [(lora(7), r"\[7, 7\].*\[6, 6\]"), (lora(6, up_rank=3), "rank of its down matrix")]
)
def test_a_lora_of_another_model_is_refused(work_of: WorkOf, data: bytes, message: str) -> None:
    files = {**base_model(), UNET: weights(**{"to_q.weight": ("F16", (6, 6), bytes(72))}), "x.safetensors": data}
    with pytest.raises(Refused, match=message):
        check(work_of(files))


def test_components_have_their_sizes(work_of: WorkOf) -> None:
    files = base_model()
    details = check(work_of(files))
    assert details["components"]["unet"] == len(files[UNET])
    assert set(details["components"]) == {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}
