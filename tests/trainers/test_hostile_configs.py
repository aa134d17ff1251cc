"""No value of an uploaded configuration is opened as a file: a secret reaches neither a product nor a log."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from formats.models.tokenizer_files import CLASSES
from tests.tiny_text import BUILDERS, bpe_files_write, build_tiny_bert, byte_tokenizer_write
from tests.trainers.canaries import PATH_KEYS, replaced, strings_of
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.image.models.families import base_save, load_base
from trainers.image.models.text_encoders import clip_tokenizer, t5_tokenizer
from trainers.text.models.load import load_text, load_tokens
from trainers.text.models.weights import save_text

SECRET = "zq9secretworkertoken7xk"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of its own that is a vocabulary, too: one token a line."""
    path = tmp_path / "elsewhere" / "worker_token.txt"
    path.parent.mkdir()
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", SECRET]) + "\n")
    return path


@pytest.fixture(scope="module")
def text_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("text")
    return {family: build(root / family) for family, build in BUILDERS.items()}


@pytest.fixture
def copy(text_folders: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda family: Path(shutil.copytree(text_folders[family], tmp_path / f"in-{family}"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))


def leaks(folder: Path) -> list[str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [str(path.relative_to(folder)) for path in files if SECRET.encode() in path.read_bytes()]


def test_a_vocabulary_path_in_a_tokenizer_config_is_never_opened(tmp_path: Path, secret: Path) -> None:
    """The hole that was shown: a base model whose tokenizer_config.json names the worker's token as its vocabulary."""
    folder = build_tiny_bert(tmp_path / "bert")
    edit(folder / "tokenizer_config.json", tokenizer_class="BertTokenizer", vocab=str(secret))
    save_text(load_text(folder, torch.float32), tmp_path / "product")
    assert (tmp_path / "product" / "tokenizer.json").is_file()
    assert leaks(tmp_path / "product") == []


def test_a_vocabulary_path_inside_tokenizer_json_is_refused(copy: Callable[[str], Path], secret: Path) -> None:
    folder = copy("bert")
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    model |= {"max_input_chars_per_word": 100, "vocab": str(secret)}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    with pytest.raises(TrainerError, match=r"tokenizer.json model: vocab is '.*, expected an object of ids by token"):
        load_text(folder, torch.float32)


def test_a_path_in_the_map_of_special_tokens_is_never_opened(copy: Callable[[str], Path], secret: Path) -> None:
    folder = copy("bert")
    edit(folder / "special_tokens_map.json", vocab=str(secret), vocab_file=str(secret))
    assert SECRET not in load_tokens(folder).tokenizer.get_vocab()


def tokenizer_folder(place: Path, class_name: str) -> Path:
    """A tokenizer that the class opens, in each of its file formats."""
    if class_name == "BertTokenizer":
        (place / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]))
        edit(place / "tokenizer_config.json", tokenizer_class=class_name)
    elif class_name in ("PreTrainedTokenizerFast", "LlamaTokenizer", "T5Tokenizer"):
        byte_tokenizer_write(place, ("<s>", "</s>"), bos="<s>", eos="</s>")
        edit(place / "tokenizer_config.json", tokenizer_class=class_name)
    else:
        bpe_files_write(place, ("<|endoftext|>",), eos="<|endoftext|>")
        edit(place / "tokenizer_config.json", tokenizer_class=class_name)
    return place


@pytest.mark.parametrize("bare", [True, False], ids=["config_alone", "with_its_files"])
@pytest.mark.parametrize("class_name", CLASSES)
def test_no_constructor_keyword_of_a_tokenizer_opens_a_path(
    tmp_path: Path, secret: Path, class_name: str, bare: bool
) -> None:
    """Each keyword that any class of transformers has, alone and all of them at once, as path, list and object."""
    base = BUILDERS["bert"](tmp_path / "base")
    for name in ("vocab.txt", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"):
        (base / name).unlink(missing_ok=True)
    tokenizer_folder(base, class_name)
    if bare:
        for name in ("vocab.txt", "vocab.json", "merges.txt", "tokenizer.json"):
            (base / name).unlink(missing_ok=True)
    config = json.loads((base / "tokenizer_config.json").read_text())
    keys = sorted({*PATH_KEYS, *init_keywords(class_name)} - {"bos_token", "eos_token", "unk_token", "pad_token"})
    values: list[Any] = [str(secret), [str(secret)], {"model_file": str(secret), "AutoTokenizer": str(secret)}]
    for number, value in enumerate(values):
        for chosen in ([[key] for key in keys] if number == 0 else []) + [keys]:
            (base / "tokenizer_config.json").write_text(json.dumps(config | dict.fromkeys(chosen, value)))
            out = tmp_path / "out"
            try:
                load_tokens(base).tokenizer.save_pretrained(out)
            except TrainerError as error:
                assert error.reason.code == ReasonCode.BAD_BASE_MODEL and SECRET not in str(error.reason)
            assert leaks(out) == [], chosen
            shutil.rmtree(out, ignore_errors=True)


def init_keywords(class_name: str) -> set[str]:
    code = getattr(transformers, class_name).__init__.__code__
    return set(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])


@pytest.mark.parametrize("family", [*BUILDERS])
def test_no_string_of_a_text_model_is_opened_as_a_path(
    copy: Callable[[str], Path], tmp_path: Path, secret: Path, family: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every string of every JSON file, one after the other and with keys beside it, becomes the path of the secret."""
    folder = copy(family)
    for path in sorted(folder.glob("*.json")):
        original = json.loads(path.read_text())
        places = [place for place in strings_of(original) if place[:1] not in (("weight_map",), ("added_tokens",))]
        for place in places[:40]:
            path.write_text(json.dumps(replaced(original, place, str(secret))))
            _load_and_save(lambda: load_tokens(folder).tokenizer.save_pretrained(tmp_path / "out"))
            assert leaks(tmp_path / "out") == [], (path.name, place)
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
        path.write_text(json.dumps(original))
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "kind", ["sd1", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("sdxl", "sd3", "flux"))]
)
def test_no_string_of_an_image_model_is_opened_as_a_path(
    tiny_base: Callable[[str], Path], tmp_path: Path, secret: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """All unknown keys at once in every file, then every string of every configuration together with its tokenizers."""
    folder = Path(shutil.copytree(tiny_base(kind), tmp_path / "in"))
    for path in sorted(folder.rglob("*.json")):
        if path.name.endswith(("config.json", "model_index.json", "special_tokens_map.json")):
            edit(path, **{key: str(secret) for key in (*PATH_KEYS, "_attn_implementation", "quantization_config")})
    base_save(load_base(folder, torch.float32), tmp_path / "product")
    assert leaks(tmp_path / "product") == []
    assert SECRET not in "".join(capfd.readouterr())
    for part in sorted(path for path in folder.iterdir() if path.name.startswith("tokenizer")):
        opener = t5_tokenizer if _is_t5(part) else clip_tokenizer
        for path in sorted(part.glob("*.json")):
            original = json.loads(path.read_text())
            for place in [place for place in strings_of(original) if "added_tokens" not in place][:40]:
                path.write_text(json.dumps(replaced(original, place, str(secret))))
                _load_and_save(
                    lambda opener=opener, part=part: opener(folder, part.name).save_pretrained(tmp_path / "out")
                )
                assert leaks(tmp_path / "out") == [], (part.name, path.name, place)
                shutil.rmtree(tmp_path / "out", ignore_errors=True)
            path.write_text(json.dumps(original))


def _is_t5(part: Path) -> bool:
    return "T5" in json.loads((part / "tokenizer_config.json").read_text()).get("tokenizer_class", "")


def _load_and_save(load: Callable[[], Any]) -> None:
    """A refusal is as good as a tokenizer that has not read the file."""
    try:
        load()
    except TrainerError as error:
        assert error.reason.code == ReasonCode.BAD_BASE_MODEL
        assert SECRET not in error.reason.message + error.reason.detail


def test_shards_of_another_folder_are_refused(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy("llada")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    other = Path(shutil.copy(next(folder.glob("*.safetensors")), tmp_path / "other.safetensors"))
    for name in (str(other), "../other.safetensors"):
        index["weight_map"] = dict.fromkeys(load_file(other), name)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(TrainerError, match=r"expected a \.safetensors file beside the index"):
            load_text(folder, torch.float32)
