from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from api.openapi import openapi_yaml

DOCS = Path(__file__).resolve().parents[4] / "docs"


class Command(BaseCommand):
    help = "Write docs/openapi.yaml, the description of /api/v1/."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--output", type=Path, default=DOCS / "openapi.yaml", help="File to write.")

    def handle(self, *_: Any, **options: Any) -> None:
        options["output"].write_text(openapi_yaml(), encoding="utf-8")
