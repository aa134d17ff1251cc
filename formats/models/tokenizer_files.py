"""The files of a tokenizer: which are read, which keys and classes they may have, and what their values may be.

transformers takes many constructor arguments from these files, and some of them (`vocab`, `merges_file`, ...) as paths.
So nothing reaches it but what is listed here: no key of this list is ever opened as a file.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from formats.models.configs import (
    MAX_TOKENS,
    TOKEN_ID,
    WORD,
    YES_NO,
    Cleaned,
    ConfigError,
    Kind,
    Kinds,
    choice,
    config_clean,
    each,
    either,
    integer,
    mapping,
    number,
    optional,
    table,
    text,
    value_shown,
)
from foundation.strict_json import json_object_read

CONFIG, SPECIAL_TOKENS, ADDED_TOKENS = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
TOKENIZER, VOCABULARY = "tokenizer.json", "vocab.json"
JSON_FILES = (CONFIG, SPECIAL_TOKENS, ADDED_TOKENS, TOKENIZER, VOCABULARY)
"""Checked, and rewritten if they contain keys that are not listed here."""
DATA_FILES = ("vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja")
"""Passed on unchanged; their formats cannot refer to other files."""
TEXT_MODEL_FILES = ((TOKENIZER,), ("vocab.txt",), (VOCABULARY, "merges.txt"), ("tokenizer.model",))
"""A language model needs one of these sets."""
MAX_CONFIG_BYTES = 4 << 20
MAX_BYTES = 128 << 20
MAX_TEMPLATE = 1 << 20
"""Characters of a chat template. Only other tools render it."""
MAX_PATTERN = 4096
"""Characters of a regular expression."""
MAX_REPEATS = 10_000
"""Product of the counts {n,m} in one expression: `((a{1000}){1000}){1000}` takes gigabytes to compile."""
COUNTS = re.compile(r"\{(\d*)(?:,(\d*))?\}")
TOKEN_TEXT = text(1024)
FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")
TOKEN_FIELDS: Kinds = {"content": TOKEN_TEXT, "__type": choice("AddedToken"), **dict.fromkeys(FLAGS, YES_NO)}
TOKEN_OBJECT = table(TOKEN_FIELDS, needs=("content",))
TOKEN = optional(either(TOKEN_TEXT, TOKEN_OBJECT))
TOKENS = optional(each(either(TOKEN_TEXT, TOKEN_OBJECT), 100_000))
NAME_FORM = re.compile(r"[A-Za-z0-9_]{1,64}")
ID_FORM = re.compile(r"[0-9]{1,7}")
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
SPECIAL_TOKENS_KEYS: Kinds = {
    **dict.fromkeys(ROLES, TOKEN),
    "additional_special_tokens": TOKENS,
    "extra_special_tokens": either(TOKENS, mapping(NAME_FORM, either(TOKEN_TEXT, TOKEN_OBJECT), 1000)),
}
TEMPLATE = text(MAX_TEMPLATE)
CONFIG_KEYS: Kinds = {
    **SPECIAL_TOKENS_KEYS,
    "added_tokens_decoder": mapping(ID_FORM, TOKEN_OBJECT, 100_000),
    "add_bos_token": optional(YES_NO),
    "add_eos_token": optional(YES_NO),
    "add_prefix_space": optional(YES_NO),
    "clean_up_tokenization_spaces": optional(YES_NO),
    "do_lower_case": YES_NO,
    "do_basic_tokenize": YES_NO,
    "never_split": optional(each(TOKEN_TEXT, 10_000)),
    "tokenize_chinese_chars": YES_NO,
    "strip_accents": optional(YES_NO),
    "split_special_tokens": YES_NO,
    "spaces_between_special_tokens": YES_NO,
    "legacy": optional(YES_NO),
    "errors": choice("replace", "strict", "ignore"),
    "extra_ids": integer(0, 10_000),
    "model_max_length": optional(number(1, 1e31)),
    "padding_side": choice("right", "left"),
    "truncation_side": choice("right", "left"),
    "model_input_names": each(WORD, 16),
    "chat_template": optional(
        either(TEMPLATE, each(table({"name": WORD, "template": TEMPLATE}, needs=("name", "template")), 32))
    ),
}
CLASS = "tokenizer_class"
CLASSES = (
    "BertTokenizer",
    "CLIPTokenizer",
    "GPT2Tokenizer",
    "LlamaTokenizer",
    "PreTrainedTokenizerFast",
    "Qwen2Tokenizer",
    "T5Tokenizer",
)
"""Classes of transformers that may open a tokenizer; other names in the file are ignored."""
ALIASES = {"TokenizersBackend": "PreTrainedTokenizerFast"}
"""Other names of these classes, besides those that end in Fast."""
COMPONENTS = frozenset(
    (
        *("BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "Strip", "StripAccents"),
        *("Precompiled", "Replace", "Prepend", "ByteLevel", "BertPreTokenizer", "Whitespace", "WhitespaceSplit"),
        *("Punctuation", "Digits", "Metaspace", "CharDelimiterSplit", "Split", "UnicodeScripts", "FixedLength"),
        *("TemplateProcessing", "BertProcessing", "RobertaProcessing", "WordPiece", "BPEDecoder", "CTC", "Fuse"),
        *("ByteFallback", "Sequence"),
    )
)
"""`type` of normalizers, pre-tokenizers, post-processors and decoders."""
MODEL_KEYS: Kinds = {
    "type": choice("BPE", "WordPiece", "WordLevel", "Unigram"),
    "dropout": optional(number(0, 1)),
    "unk_token": optional(TOKEN_TEXT),
    "unk_id": optional(TOKEN_ID),
    "continuing_subword_prefix": optional(TOKEN_TEXT),
    "end_of_word_suffix": optional(TOKEN_TEXT),
    "fuse_unk": optional(YES_NO),
    "byte_fallback": optional(YES_NO),
    "ignore_merges": optional(YES_NO),
    "max_input_chars_per_word": integer(1, 1_000_000),
    "vocab": Kind("an object of ids by token, or a list of [token, score]", lambda value: _is_vocabulary(value)),
    "merges": Kind("a list of pairs of tokens", lambda value: _is_merges(value)),
}
PADDING: Kinds = {
    "strategy": either(choice("BatchLongest"), table({"Fixed": integer(1, 1 << 20)})),
    "direction": choice("Left", "Right"),
    "pad_to_multiple_of": optional(integer(1, 1 << 16)),
    "pad_id": TOKEN_ID,
    "pad_type_id": TOKEN_ID,
    "pad_token": TOKEN_TEXT,
}
TRUNCATION: Kinds = {
    "max_length": integer(0, 1 << 24),
    "strategy": choice("LongestFirst", "OnlyFirst", "OnlySecond"),
    "stride": integer(0, 1 << 24),
    "direction": choice("Left", "Right"),
}
ADDED_TOKEN = table({**TOKEN_FIELDS, "id": TOKEN_ID}, needs=("content", "id"))
COMPONENT = Kind("an object of a known `type`", lambda value: isinstance(value, dict))
TOKENIZER_KEYS: Kinds = {
    "version": text(16),
    "truncation": optional(table(TRUNCATION)),
    "padding": optional(table(PADDING)),
    "added_tokens": each(ADDED_TOKEN, 100_000),
    **dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"), optional(COMPONENT)),
    "model": table(MODEL_KEYS),
}


class TokenizerFiles(NamedTuple):
    class_name: str | None
    """One of CLASSES, or None."""
    json: dict[str, dict[str, Any]]
    """Cleaned content by file name."""
    data: tuple[str, ...]
    """Files that are passed on unchanged."""
    ignored: tuple[str, ...]
    """ "file key" of each dropped key."""


def tokenizer_files_read(folder: Path, prefix: str = "") -> TokenizerFiles:
    """The tokenizer in `folder`, reduced to what is read. Raises ConfigError or JsonError; `prefix` begins their names.

    The caller checks which files are required.
    """
    contents: dict[str, dict[str, Any]] = {}
    ignored: list[str] = []
    class_name = None
    for name in JSON_FILES:
        if not (folder / name).is_file():
            continue
        raw = json_object_read(_bytes(folder / name, prefix + name), prefix + name, allow_nul=True)
        if name == CONFIG:
            class_name = class_of(raw.pop(CLASS, None), ignored, prefix + name)
        contents[name], left_out = _clean(name, raw, prefix + name)
        ignored += [f"{prefix}{name} {key}" for key in left_out]
    data = tuple(name for name in DATA_FILES if (folder / name).is_file())
    for name in data:
        _size_check(folder / name, prefix + name, MAX_TEMPLATE if name.endswith(".jinja") else MAX_BYTES)
    return TokenizerFiles(class_name, contents, data, tuple(ignored))


def class_of(named: Any, ignored: list[str], file: str) -> str | None:
    """The class of CLASSES for `named`; an unknown name is added to `ignored`."""
    plain = named.removesuffix("Fast") if isinstance(named, str) else None
    for name in (named, plain, ALIASES.get(str(named))):
        if isinstance(name, str) and name in CLASSES:
            return name
    if named is not None:
        ignored.append(f"{file} {CLASS}={value_shown(named)}")
    return None


def _clean(name: str, raw: dict[str, Any], file: str) -> Cleaned:
    match name:
        case "tokenizer_config.json":
            return config_clean(raw, CONFIG_KEYS, file)
        case "special_tokens_map.json":
            return config_clean(raw, SPECIAL_TOKENS_KEYS, file)
        case "tokenizer.json":
            return _tokenizer_clean(raw, file)
    _ids_check(raw, file)
    return Cleaned(raw, ())


def _tokenizer_clean(raw: dict[str, Any], file: str) -> Cleaned:
    ignored: tuple[str, ...] = ()
    if isinstance(raw.get("model"), dict):
        model, ignored = config_clean(raw["model"], MODEL_KEYS, f"{file} model")
        raw = raw | {"model": model}
    values, further = config_clean(raw, TOKENIZER_KEYS, file)
    for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        _component_check(values.get(key), f"{file} {key}")
    return Cleaned(values, (*further, *(f"model.{key}" for key in ignored)))


def _component_check(value: Any, where: str) -> None:
    """Raises ConfigError for an unknown `type` or an overly long pattern."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            _type_check(item, where)
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _type_check(component: Mapping[str, Any], where: str) -> None:
    if "type" in component and component["type"] not in COMPONENTS:
        raise ConfigError(f"{where}: type is {value_shown(component['type'])}, expected one of {_listed()}")
    pattern = component.get("Regex")
    if "Regex" in component and not _is_pattern(pattern):
        raise ConfigError(
            f"{where}: Regex is {value_shown(pattern)}, expected a pattern of at most {MAX_PATTERN} characters whose "
            f"counts {{n,m}} multiply to at most {MAX_REPEATS}"
        )


def _is_pattern(value: Any) -> bool:
    if not isinstance(value, str) or len(value) > MAX_PATTERN:
        return False
    product = 1
    for counts in COUNTS.findall(value):
        product *= max([1, *(int(count[:9]) for count in counts if count)])
    return product <= MAX_REPEATS


def _listed() -> str:
    return ", ".join(sorted(COMPONENTS))


def _is_vocabulary(value: Any) -> bool:
    if isinstance(value, dict):
        return len(value) <= MAX_TOKENS and all(TOKEN_ID.fits(item) for item in value.values())
    score = number(-1e30, 1e30)
    return (
        isinstance(value, list)
        and len(value) <= MAX_TOKENS
        and all(
            isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and score.fits(item[1])
            for item in value
        )
    )


def _is_merges(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 2 * MAX_TOKENS
        and all(
            isinstance(item, str)
            or (isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item))
            for item in value
        )
    )


def _ids_check(raw: Mapping[str, Any], file: str) -> None:
    for token, index in raw.items():
        if not TOKEN_ID.fits(index) or len(token) > 4096:
            raise ConfigError(
                f"{file}: {token!a:.60} is {value_shown(index)}, expected a token and {TOKEN_ID.expected}"
            )


def _bytes(path: Path, name: str) -> bytes:
    _size_check(path, name, MAX_BYTES if path.name in (TOKENIZER, VOCABULARY) else MAX_CONFIG_BYTES)
    return path.read_bytes()


def _size_check(path: Path, name: str, most: int) -> None:
    size = path.stat().st_size
    if size > most:
        raise ConfigError(f"{name} has {size} bytes; at most {most} are read")
