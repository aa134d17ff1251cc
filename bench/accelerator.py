"""Runs an accelerator bench where dataset libraries may be absent: python -m bench.accelerator image|text [options]."""

import sys
from importlib import import_module

from bench.absent import stand_ins_install

PROGRAMS = {"image": "bench.image_accelerator", "text": "bench.text_accelerator"}


def main(arguments: list[str]) -> int:
    """Installs the stand-ins before it imports the program."""
    stand_ins_install()
    code: int = import_module(PROGRAMS[arguments[0]]).main(arguments[1:])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
