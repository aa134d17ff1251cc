"""Configurations of uploaded base models: the lists that trainers read by, and one notice for all other keys."""

import json
from typing import Any

import pytest

from api.catalog.checking.model import check
from api.catalog.checking.report import Refused
from tests.api.actors import Files, base_model, safetensors
from tests.api.catalog.checking.conftest import WorkOf
from tests.api.catalog.checking.test_weights import UNET, raw_file
from tests.formats.models.test_real_configs import PNDM, QWEN3, SD15_UNET, TOKENIZER_CONFIG


def text_model(config: dict[str, Any], **files: bytes) -> Files:
    return {
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors": safetensors(),
        **files,
    }


def test_keys_that_are_not_read_make_one_notice(work_of: WorkOf) -> None:
    files = base_model() | {
        "unet/config.json": json.dumps(SD15_UNET | {"_name_or_path": "x", "cross_attention_dim": 768}).encode(),
        "tokenizer/tokenizer_config.json": json.dumps(TOKENIZER_CONFIG).encode(),
        "scheduler/scheduler_config.json": json.dumps(PNDM).encode(),
    }
    details = check(work := work_of(files))
    assert details["family"] == "sd1"
    (notice,) = work.notices.listed
    assert notice["code"] == "keys_that_are_not_read"
    for key in (
        "unet/config.json _name_or_path",
        "tokenizer/tokenizer_config.json auto_map",
        "tokenizer/tokenizer_config.json special_tokens_map_file",
        "scheduler/scheduler_config.json _diffusers_version",
    ):
        assert key in notice["message"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "unet/config.json",
            {"in_channels": -4},
            "unet/config.json: in_channels is -4, expected a whole number from 1",
        ),
        ("vae/config.json", {"latent_channels": "__import__"}, "latent_channels is '__import__', expected a whole"),
        ("text_encoder/config.json", {"vocab_size": 10**8}, "vocab_size is 100000000, expected a whole number"),
        ("scheduler/scheduler_config.json", PNDM | {"num_train_timesteps": 0}, "num_train_timesteps is 0, expected"),
        ("tokenizer/tokenizer.json", {"model": {"vocab": "/etc/passwd"}}, "vocab is '/etc/passwd', expected an object"),
        ("model_index.json", None, "model_index.json: force_zeros_for_empty_prompt is '/x', expected true or false"),
    ],
)
def test_a_dangerous_value_is_refused_with_file_key_value_and_expectation(
    work_of: WorkOf, file: str, content: Any, message: str
) -> None:
    files = base_model()
    index = json.loads(files["model_index.json"]) | {"force_zeros_for_empty_prompt": "/x"}
    files[file] = json.dumps(index if content is None else content).encode()
    with pytest.raises(Refused) as caught:
        check(work_of(files))
    assert caught.value.code == "bad_config" and message in str(caught.value)


def test_a_text_model_with_a_kernel_of_the_hub_is_refused(work_of: WorkOf) -> None:
    files = text_model(QWEN3 | {"_attn_implementation": "evil/kernel"})
    with pytest.raises(Refused, match="_attn_implementation is 'evil/kernel', expected eager or sdpa"):
        check(work_of(files))


def test_a_text_model_of_today_passes_with_its_notice(work_of: WorkOf) -> None:
    details = check(work := work_of(text_model(QWEN3)))
    assert details["family"] == "qwen3" and details["max_positions"] == 40960
    assert [notice["message"] for notice in work.notices.listed] == [
        "no job reads these keys: config.json architectures, config.json transformers_version"
    ]


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "model.safetensors.index.json"])
def test_a_duplicate_key_is_refused_with_key_and_file(work_of: WorkOf, file: str) -> None:
    files = text_model(QWEN3) | {file: b'{"vocab_size": 5, "vocab_size": 100000000}'}
    with pytest.raises(Refused, match=rf"{file}: duplicate key 'vocab_size'"):
        check(work_of(files))


def test_a_duplicate_tensor_in_a_header_is_refused(work_of: WorkOf) -> None:
    entry = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    text = f'{{"a": {entry}, "a": {entry}}}'.encode()
    file = len(text).to_bytes(8, "little") + text + bytes(4)
    with pytest.raises(Refused, match=f"{UNET}: the header: duplicate key 'a'"):
        check(work_of(base_model() | {UNET: file}))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"", "has zero bytes; expected safetensors"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "is a pickle by another name; expected safetensors"),
        (b"\x80\x04\x95\x1a\x01\x00\x00\x00\x00\x00\x00" + bytes(400), "is a pickle by another name"),
        (b"PK\x03\x04\x00\x00\x08\x08\x00\x00" + bytes(100), "is a zip archive (as torch.save writes pickled weights)"),
        (b"GGUF\x03\x00\x00\x00" + bytes(100), "is a GGUF file by another name"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ],
)
def test_other_formats_under_the_name_of_safetensors_are_named(work_of: WorkOf, start: bytes, message: str) -> None:
    with pytest.raises(Refused) as caught:
        check(work_of(base_model() | {UNET: start}))
    assert f"{UNET} {message}" in str(caught.value)


def test_a_header_whose_length_looks_like_a_pickle_is_read(work_of: WorkOf) -> None:
    """640 bytes of header are the bytes 80 02 00 00 ..., the beginning of a pickle of protocol 2."""
    header = {"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode().ljust(0x280)
    file = len(text).to_bytes(8, "little") + text + bytes(4)
    assert file[:2] == b"\x80\x02" and raw_file(header, bytes(4)) != file
    assert check(work_of(base_model() | {UNET: file}))["family"] == "sd1"
