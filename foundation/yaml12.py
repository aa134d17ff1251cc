"""YAML with the JSON values of YAML 1.2, for the API and the command line."""

import re
from typing import Any

import yaml

RESOLVERS = (
    ("tag:yaml.org,2002:null", r"^(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"^(true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("tag:yaml.org,2002:int", r"^[-+]?(0|[1-9][0-9]*)$", list("-+0123456789")),
    ("tag:yaml.org,2002:float", r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$", list("-+.0123456789")),
)


class PlainLoader(yaml.SafeLoader):
    """`no` is text, `1:30` is text, a date is text, 1e-4 is a number."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 as PyYAML has it


class PlainDumper(yaml.SafeDumper):
    """Quotes text that a parser of YAML 1.1 or 1.2 would read as another type."""


for tag, pattern, letters in RESOLVERS:
    PlainLoader.add_implicit_resolver(tag, re.compile(pattern), letters)
PlainDumper.add_implicit_resolver(RESOLVERS[-1][0], re.compile(RESOLVERS[-1][1]), RESOLVERS[-1][2])
