"""Files with a content of their own, whose paths stand in configurations: which of them does a job leave a copy of?"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

MARK = re.compile(rb"zq9canary(\d{5})zq9")
MARK_IN_BASE64 = b"enE5Y2FuYXJ5"
"""Of a file that begins with the mark."""
PATH_KEYS = (
    *("vocab", "merges", "vocab_file", "merges_file", "tokenizer_file", "tokenizer_object", "spm_file", "source_spm"),
    *("target_spm", "target_vocab_file", "emoji_file", "sentencepiece_model", "sentencepiece_model_file", "gguf_file"),
    *("vocabulary_file", "word_shape_file", "word_pronunciation_file", "sp_model_kwargs", "added_tokens_file"),
    *("special_tokens_map_file", "tokenizer_config_file", "chat_template_file", "fast_tokenizer_files", "name_or_path"),
    *("_name_or_path", "auto_map", "init_inputs", "subfolder", "bpe_file", "dict_file", "sp_model", "model_file"),
    *("monolingual_vocab_file", "entity_vocab_file", "cache_dir", "mecab_kwargs", "jumanpp_kwargs", "sudachi_kwargs"),
    *("backend", "_processor_class", "model_specific_special_tokens", "_spm_precompiled_charsmap", "normalizer_file"),
)
"""Arguments of tokenizer classes in transformers that name a file or a folder somewhere, and keys around them."""
CONTAINER_ITEMS = 3
"""Strings that are looked at in one list, and in one object of a row per tensor or token."""


class Place(NamedTuple):
    """A string in a JSON file."""

    file: str
    keys: tuple[Any, ...]


class Canaries:
    """The files, one per place, in `folder`, whose path should be short: refusals repeat only 80 characters."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: list[Place] = []

    def path_of(self, place: Place) -> str:
        """Of a file that also is a vocabulary, one token a line."""
        if place not in self._places:
            number = len(self._places)
            self._places.append(place)
            lines = [f"zq9canary{number:05d}zq9", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
            (self._folder / str(number)).write_text("\n".join(lines) + "\n")
        return str(self._folder / str(self._places.index(place)))

    def named_in(self, message: str) -> Place | None:
        """The place whose path a refusal repeats."""
        match = re.search(re.escape(str(self._folder)) + r"/(\d+)", message)
        return self._places[int(match[1])] if match else None

    def copies(self, folders: Iterable[Path], *outputs: str) -> list[tuple[str, str]]:
        """Where a content is, and the place that named it: in files, in names of files and in captured output."""
        paths = [path for folder in folders for path in sorted(folder.rglob("*"))]
        contents = {str(path): path.read_bytes() for path in paths if path.is_file()}
        contents |= {f"output {index}": output.encode() for index, output in enumerate(outputs)}
        contents["names"] = "\n".join(map(str, paths)).encode()
        results = []
        for name, content in contents.items():
            results += [(name, str(self._places[int(number)])) for number in MARK.findall(content)]
            results += [(name, "in base64")] * content.count(MARK_IN_BASE64)
        return results


def places_in(folder: Path) -> list[Place]:
    """Every string-valued key of every JSON file below `folder`, and known keys that might name a file."""
    places = []
    for path in sorted(folder.rglob("*.json")):
        name = str(path.relative_to(folder))
        content = json.loads(path.read_text())
        keys = [*strings_of(content)]
        if not name.endswith(".index.json") and path.name not in ("vocab.json", "tokenizer.json"):
            keys += [(key,) for key in PATH_KEYS if key not in content]
        places += [Place(name, key) for key in keys]
    return places


def places_write(folder: Path, places: Iterable[Place], canaries: Canaries) -> None:
    """Puts the path of its canary at each place."""
    for place in places:
        path = folder / place.file
        path.write_text(json.dumps(replaced(json.loads(path.read_text()), place.keys, canaries.path_of(place))))


def strings_of(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of the strings in a JSON value; of a long list or map the first few."""
    if isinstance(value, str):
        yield place
    children = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    if isinstance(value, list) or place[-1:] == ("weight_map",):
        children = children[:CONTAINER_ITEMS]
    for key, item in children:
        yield from strings_of(item, (*place, key))


def replaced(value: Any, place: tuple[Any, ...], new: str) -> Any:
    """A copy with `new` at `place`, whose last key may be a new one."""
    if not place:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[place[0]] = replaced(value[place[0]], place[1:], new) if len(place) > 1 else new
    return copied
