"""Files of models: which are never loaded, what a value in a configuration may be, and which keys are read."""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from foundation.strict_json import json_object_read

PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz")
"""Files with these endings are never loaded: opening them can run code."""
MAX_CONFIG_BYTES = 4 << 20
MAX_INDEX_BYTES = 64 << 20
MAX_FAULTS = 20
SHOWN = 80
"""Characters of a value that are quoted in an error."""
WORD_FORM = re.compile(r"[A-Za-z0-9_+-]{1,64}")


class ConfigError(ValueError):
    """The file is invalid. `faults` has a sentence for each invalid value; the first is the message."""

    def __init__(self, *faults: str) -> None:
        super().__init__(faults[0])
        self.faults = faults


class Kind(NamedTuple):
    expected: str
    """For people: "a whole number from 1 to 64"."""
    fits: Callable[[Any], bool]
    is_passed_on: bool = True
    """False: the value is checked and then dropped."""


Kinds = Mapping[str, Kind]
"""By key."""


class Cleaned(NamedTuple):
    values: dict[str, Any]
    """Checked values of the known keys."""
    ignored: tuple[str, ...]
    """Keys of the file that are dropped."""


def config_clean(raw: Mapping[str, Any], kinds: Kinds, file: str) -> Cleaned:
    """`raw` (JSON) reduced to the keys of `kinds`. Raises ConfigError with file, key, value and expectation."""
    faults = [
        f"{file}: {key} is {value_shown(value)}, expected {kinds[key].expected}"
        for key, value in raw.items()
        if key in kinds and not kinds[key].fits(value)
    ]
    if faults:
        raise ConfigError(*faults[:MAX_FAULTS])
    values = {key: value for key, value in raw.items() if key in kinds and kinds[key].is_passed_on}
    return Cleaned(values, tuple(sorted(set(raw) - set(values))))


def value_shown(value: Any) -> str:
    shown = ascii(value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."


def json_file_read(path: Path, name: str, *, most: int = MAX_CONFIG_BYTES, **options: bool) -> dict[str, Any]:
    """The object in `path`. Raises ConfigError or JsonError that begin with `name`, or OSError."""
    size = path.stat().st_size
    if size > most:
        raise ConfigError(f"{name} has {size} bytes; at most {most} are read")
    return json_object_read(path.read_bytes(), name, **options)


def shard_files(raw: dict[str, Any], file: str) -> dict[str, str]:
    """The weight_map of a *.safetensors.index.json: file by tensor. Raises ConfigError for a file in another folder."""
    places = raw.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ConfigError(f"{file}: expected weight_map with the file of each tensor, got {places!r:.60}")
    for name in places.values():
        plain = isinstance(name, str) and name.endswith(".safetensors") and not set(name) & set("/\\\0")
        if not plain or len(name) > 255:
            raise ConfigError(f"{file}: weight_map names {name!r:.100}, expected a .safetensors file beside the index")
    return places


def integer(low: int, high: int) -> Kind:
    return Kind(
        f"a whole number from {low} to {high}",
        lambda value: type(value) is int and low <= value <= high,
    )


def number(low: float, high: float) -> Kind:
    return Kind(
        f"a number from {low:g} to {high:g}",
        lambda value: type(value) in (int, float) and math.isfinite(value) and low <= value <= high,
    )


def choice(*values: str | bool | None) -> Kind:
    """One of `values`; types must match: 1 is not true."""
    shown = " or ".join("null" if value is None else str(value).lower() if value in (True, False) else str(value)
                        for value in values)  # fmt: skip
    return Kind(shown, lambda value: any(type(value) is type(other) and value == other for other in values))


def text(most: int) -> Kind:
    return Kind(f"text of at most {most} characters", lambda value: isinstance(value, str) and len(value) <= most)


def optional(kind: Kind) -> Kind:
    return Kind(f"{kind.expected}, or null", lambda value: value is None or kind.fits(value))


def either(*kinds: Kind) -> Kind:
    return Kind(", or ".join(kind.expected for kind in kinds), lambda value: any(kind.fits(value) for kind in kinds))


def each(kind: Kind, most: int) -> Kind:
    return Kind(
        f"a list of at most {most}, each {kind.expected}",
        lambda value: isinstance(value, list) and len(value) <= most and all(kind.fits(item) for item in value),
    )


def one_or_each(kind: Kind, most: int = 64) -> Kind:
    return either(kind, each(kind, most))


def table(kinds: Kinds, *, needs: tuple[str, ...] = ()) -> Kind:
    """An object with only the keys of `kinds`."""
    return Kind(
        f"an object with the keys {', '.join(kinds)}",
        lambda value: (
            isinstance(value, dict)
            and all(key in kinds and kinds[key].fits(item) for key, item in value.items())
            and all(key in value for key in needs)
        ),
    )


def mapping(key_form: re.Pattern[str], kind: Kind, most: int) -> Kind:
    return Kind(
        f"an object of at most {most} entries, each {kind.expected}",
        lambda value: (
            isinstance(value, dict)
            and len(value) <= most
            and all(key_form.fullmatch(key) and kind.fits(item) for key, item in value.items())
        ),
    )


def left_out(kind: Kind) -> Kind:
    """Checked, then dropped."""
    return kind._replace(is_passed_on=False)


YES_NO = choice(True, False)
WORD = Kind("a word of letters, digits, _, + and -", lambda value: isinstance(value, str)
            and WORD_FORM.fullmatch(value) is not None)  # fmt: skip
WIDTH = integer(1, 1 << 16)
"""Channels, hidden sizes, inner sizes of networks."""
COUNT = integer(1, 256)
"""Layers, blocks."""
HEADS = integer(1, 1024)
PROBABILITY = number(0, 1)
MAX_TOKENS = 2_000_000
TOKEN_ID = integer(0, MAX_TOKENS)
EPSILON = number(1e-20, 1)
ACTIVATION = choice("silu", "swish", "mish", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu")
