"""Which wheels to bring to a host without a network, for the accelerator benches: python -m bench.wheels.

Such a host has Python, torch, transformers, peft and accelerate. Exits with 1 after a list of what it lacks, and the
commands that fetch and install it. Standard library only.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
PRESENT = {"torch": "2.11", "transformers": "5.17", "peft": "", "accelerate": ""}
"""Minimum version of what the host must have itself."""
BROUGHT = ("diffusers", "pydantic", "pydantic-core", "annotated-types")
FURTHER = (
    *("typing-inspection", "typing-extensions", "importlib-metadata", "zipp", "lazy-importer", "pillow", "numpy"),
    *("requests", "urllib3", "certifi", "charset-normalizer", "idna", "filelock", "regex", "safetensors"),
)
"""What those need, which most hosts have."""


def main() -> int:
    if old := [f"{name} {least}".strip() for name, least in PRESENT.items() if not is_installed(name, least)]:
        print(f"the host needs, at least: {', '.join(old)}")
        return 1
    missing = [name for name in (*BROUGHT, *FURTHER) if not is_installed(name)]
    if not missing:
        return 0
    wheels = " ".join(name + constraint_of(name) for name in missing)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    print(f"missing wheels: {', '.join(missing)}. Where there is a network:")
    print(f"  pip download --no-deps --only-binary :all: --python-version {python} -d wheels {wheels}")
    print("then bring the folder `wheels`, and here:")
    print("  pip install --no-index --no-deps wheels/*.whl")
    return 1


def is_installed(name: str, least: str = "") -> bool:
    try:
        return numbers(version(name)) >= numbers(least)
    except PackageNotFoundError:
        return False


def numbers(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text.partition("+")[0])]


def constraint_of(name: str) -> str:
    """As in constraints.txt, "==1.2"; "" if it is not listed."""
    lines = re.findall(rf"^{re.escape(name)}(==\S+)", CONSTRAINTS.read_text(), re.MULTILINE)
    return lines[0] if lines else ""


if __name__ == "__main__":
    sys.exit(main())
