"""DESIGN section 5: the imports that must never exist. Walks the AST of every file of ours."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("api", "worker", "trainers", "storage", "cli", "foundation", "formats")
CONTRACT = ("trainers.contract",)
"""All that worker and api may know of the trainers."""
OPTIONAL = (
    "deepspeed",
    "bitsandbytes",
    "wandb",
    "kubernetes",
    "pynvml",
    "xformers",
    "prodigyopt",
    "lion_pytorch",
    "torchao",
)
"""Imported by one module each; `optional_module` loads the others once a job's parameters ask for them."""


@dataclass(frozen=True)
class Rule:
    """`files` (paths or folders from the root, without `but_not_in`) may not import `never`, but for `allow`."""

    files: tuple[str, ...]
    never: tuple[str, ...]
    allow: tuple[str, ...] = ()
    but_not_in: tuple[str, ...] = ()

    def holds_for(self, path: str) -> bool:
        return _below(path, self.files) and not _below(path, self.but_not_in)

    def forbids(self, module: str) -> bool:
        return _within(module, self.never) and not _within(module, self.allow)


PURE_FILES = ("trainers/core/noise.py", "trainers/core/losses.py", "trainers/text/objective")
MODALITIES = ("image", "text")
WORKER_FLOORS = ("errors", "settings", "client", "transfer", "sandbox", "process", "executors", "attempt", "host")
API_FLOORS = ("audit", "accounts", "catalog", "methods", "jobs", "lineage", "panel")
"""A room of worker or API imports only those before it."""
OURS = ("api", "worker", "trainers", "storage", "cli", "foundation", "formats")
HEAVY = ("torch", "numpy", "transformers", "diffusers", "django", "celery")
RULES = (
    Rule(("foundation",), (*OURS, *HEAVY), allow=("foundation",)),
    Rule(("formats",), (*OURS, *HEAVY), allow=("foundation", "formats")),
    Rule(("trainers/contract",), (*OURS, *HEAVY), allow=("foundation", "formats", "trainers.contract")),
    Rule(
        ("trainers",),
        ("django", "rest_framework", "celery", "boto3", "httpx", "kubernetes", "api", "worker", "storage", "cli"),
    ),
    Rule(
        PURE_FILES,
        (
            "trainers.core.loop",
            *(f"trainers.{modality}.{room}" for modality in MODALITIES for room in ("models", "data")),
        ),
    ),
    Rule(("trainers/core",), ("trainers.image", "trainers.text", "trainers.methods")),
    Rule(("trainers/image",), ("trainers.text", "trainers.methods")),
    Rule(("trainers/text",), ("trainers.image", "trainers.methods")),
    *(
        Rule(
            tuple(f"trainers/{modality}/{room}" for room in rooms),
            tuple(f"trainers.{modality}.{room}" for room in never),
        )
        for modality in MODALITIES
        for rooms, never in (
            (("models", "objective"), ("data", "adaptors", "sampling", "training")),
            (("data", "adaptors"), ("sampling", "training")),
            (("sampling",), ("training",)),
        )
    ),
    Rule(("storage",), ("api", "worker", "trainers", "cli", "django", "celery", "torch")),
    Rule(("storage",), ("boto3", "botocore"), but_not_in=("storage/s3.py",)),
    Rule(("worker",), ("torch", "django", "rest_framework", "boto3", "api", "storage")),
    Rule(("worker",), ("trainers",), allow=CONTRACT),
    *(
        Rule(
            (f"{package}/{floor}", f"{package}/{floor}.py"),
            tuple(f"{package}.{upper}" for upper in floors[index + 1 :]),
        )
        for package, floors in (("worker", WORKER_FLOORS), ("api", API_FLOORS))
        for index, floor in enumerate(floors)
    ),
    Rule(("worker",), ("kubernetes",), but_not_in=("worker/executors/kubernetes.py",)),
    Rule(("api",), ("torch", "numpy", "transformers", "diffusers", "worker")),
    Rule(("api",), ("trainers",), allow=CONTRACT),
    Rule(("api",), ("celery",), but_not_in=("api/jobs/queue.py",)),
    Rule(("api/catalog/checking",), ("django", "rest_framework", "storage"), allow=("storage.base",)),
    Rule(("api/catalog/checking",), ("api",), allow=("api.catalog.checking",)),
    Rule(("cli",), ("django", "torch", "celery", "api", "worker")),
)


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    relative: bool
    in_function: bool
    for_types_only: bool


def violations(path: str, source: str) -> list[str]:
    """Sentences, one for each forbidden import of the file `path` (relative to the root, with /)."""
    result = []
    for item in imports_of(source):
        where = f"{path}:{item.line} imports {item.module}"
        if item.relative:
            result.append(f"{where}, which is a relative import")
            continue
        if item.in_function and not item.for_types_only:
            result.append(f"{where} inside a function")
        if any(rule.holds_for(path) and rule.forbids(item.module) for rule in RULES):
            result.append(f"{where}, which DESIGN section 5 forbids there")
        if _other_method(path, item.module):
            result.append(f"{where}, which is another method")
    return result


def imports_of(source: str) -> Iterator[Import]:
    """Every import statement; `from a import b` gives a.b, since b may be a module."""
    yield from _walk(ast.parse(source), in_function=False, for_types_only=False)


def _walk(node: ast.AST, *, in_function: bool, for_types_only: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, False, in_function, for_types_only)
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            module = ".".join(filter(None, [node.module, alias.name]))
            yield Import(module, node.lineno, node.level > 0, in_function, for_types_only)
    inside = in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for_types = for_types_only or _is_type_checking(node)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, in_function=inside, for_types_only=for_types)


def _is_type_checking(node: ast.AST) -> bool:
    if not isinstance(node, ast.If):
        return False
    test = node.test
    name = test.id if isinstance(test, ast.Name) else test.attr if isinstance(test, ast.Attribute) else ""
    return name == "TYPE_CHECKING"


def _other_method(path: str, module: str) -> bool:
    """trainers/methods/x.py (or package x) may import of trainers.methods only itself."""
    if not path.startswith("trainers/methods/"):
        return False
    local = path.split("/")[2].removesuffix(".py")
    parts = module.split(".")
    return parts[:2] == ["trainers", "methods"] and len(parts) > 2 and parts[2] != local


def _below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def files() -> list[str]:
    result = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in result)


def test_no_file_of_ours_has_a_forbidden_import() -> None:
    result = [line for path in files() for line in violations(path, (ROOT / path).read_text(encoding="utf-8"))]
    assert not result, "\n" + "\n".join(result)


def test_an_optional_library_is_imported_by_one_module_only() -> None:
    users: dict[str, list[str]] = {}
    for path in files():
        modules = {item.module.split(".")[0] for item in imports_of((ROOT / path).read_text(encoding="utf-8"))}
        for library in modules & set(OPTIONAL):
            users.setdefault(library, []).append(path)
    assert all(len(paths) == 1 for paths in users.values()), users


def test_every_package_is_walked() -> None:
    assert {path.split("/")[0] for path in files()} == set(PACKAGES)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("trainers/contract/spec.py", "import torch"),
        ("trainers/contract/params/x.py", "from numpy import array"),
        ("trainers/contract/errors.py", "import celery"),
        ("trainers/core/loop.py", "from django.db import models"),
        ("trainers/text/data/text.py", "import httpx"),
        ("trainers/core/loop.py", "from api.jobs import services"),
        ("trainers/core/loop.py", "import storage"),
        ("trainers/core/losses.py", "from trainers.core import loop"),
        ("trainers/core/noise.py", "from trainers.image.models.families import load_base"),
        ("trainers/methods/image_lora.py", "from trainers.methods import sample_image"),
        ("trainers/methods/image_lora.py", "from trainers.methods.sample_image import sample"),
        ("trainers/image/sampling/sampler.py", "from trainers.methods.image_lora import train"),
        ("trainers/core/loop.py", "from trainers.image.models import base"),
        ("trainers/text/data/rows.py", "from trainers.image.data.dataset import rows_read"),
        ("trainers/image/models/base.py", "import trainers.image.sampling.sampler"),
        ("trainers/image/adaptors/apply.py", "from trainers.image.training import load"),
        ("trainers/text/sampling/masked.py", "from trainers.text.training.unmasking import validate"),
        ("trainers/text/objective/corruption.py", "from trainers.text.data.batches import Noised"),
        ("worker/client/api.py", "from worker.attempt import agent"),
        ("worker/process/tree.py", "import worker.host.host"),
        ("api/audit/models.py", "from api.accounts.models import Project"),
        ("api/catalog/models.py", "from api.jobs.models import Job"),
        ("api/jobs/models.py", "from api.lineage import uses"),
        ("foundation/strict_json.py", "import formats"),
        ("foundation/strict_json.py", "import torch"),
        ("formats/models/configs.py", "from trainers.contract.errors import Reason"),
        ("formats/models/configs.py", "import transformers"),
        ("storage/base.py", "from trainers.contract.spec import canonical_json"),
        ("storage/local.py", "import boto3"),
        ("storage/base.py", "import torch"),
        ("worker/attempt/agent.py", "import torch.cuda"),
        ("worker/attempt/agent.py", "from trainers.core.context import JobContext"),
        ("worker/attempt/agent.py", "from trainers.core import loop"),
        ("worker/attempt/agent.py", "import storage.local"),
        ("worker/executors/local.py", "import kubernetes"),
        ("api/catalog/models.py", "import numpy"),
        ("api/catalog/models.py", "from trainers.core import lora"),
        ("api/jobs/services.py", "from celery import shared_task"),
        ("api/jobs/migrations/0001_initial.py", "import torch"),
        ("cli/main.py", "import django"),
        ("cli/main.py", "from worker import host"),
        ("api/urls.py", "from . import views"),
        ("api/urls.py", "from .views import index"),
        ("worker/transfer/cache.py", "def f():\n    import json"),
        (
            "worker/transfer/cache.py",
            "class A:\n    async def f(self):\n        if True:\n            from json import loads",
        ),
    ],
)
def test_a_planted_violation_is_found(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("storage/s3.py", "import boto3"),
        ("formats/models/configs.py", "from foundation.strict_json import json_read"),
        ("trainers/image/models/families.py", "from formats.models.configs import Kind"),
        ("api/catalog/checking/model.py", "from formats.models.configs import Kind"),
        ("api/jobs/queue.py", "from celery import Celery"),
        ("worker/host/app.py", "from celery import Celery"),
        ("worker/executors/kubernetes.py", "import kubernetes"),
        ("worker/attempt/agent.py", "from trainers.contract.params import METHODS\nfrom trainers.contract import spec"),
        ("api/catalog/forms.py", "from trainers.contract.errors import Reason"),
        ("api/jobs/services.py", "import storage.base"),
        ("trainers/methods/image_lora.py", "from trainers.methods.image_lora.plan import epoch"),
        ("trainers/core/loop.py", "import torch"),
        ("cli/main.py", "import trainers.contract.spec"),
        ("worker/transfer/cache.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import json"),
        ("worker/transfer/cache.py", "def f():\n    if TYPE_CHECKING:\n        import json"),
    ],
)
def test_what_the_design_allows_is_no_violation(path: str, source: str) -> None:
    assert violations(path, source) == []
