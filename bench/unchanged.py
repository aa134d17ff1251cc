"""Records what must stay the same while files move between folders, and checks it after each step.

    python -m bench.unchanged record DIR
    python -m bench.unchanged check DIR [--parts jobs pages tests]

`record` makes tiny bases and datasets below DIR and runs short CPU jobs on them. record.json then holds the SHA-256 of
every file that the jobs left, each value of their manifests and events but for times, the SHA-256 of the generated
pages, and the names of all tests. `check` repeats the jobs on the same inputs and prints a table of what differs; its
exit code is 1 when anything does. Bits differ between machines and versions of torch: a record is never committed.
"""

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # torch reads the first at import

import numpy as np
import torch
from PIL import Image

from bench.measure import REPOSITORY, python, table
from tests.ports import free_port
from trainers import run as trainer

IMAGE_FAMILIES = ("sd1", "sd2", "sdxl", "sd3", "flux")
TEXT_METHODS = {"bert": "bert", "modernbert": "bert", "llada": "llada", "dream": "dream"}
"""`training_method` by family."""
PARTS = ("jobs", "pages", "tests")
PAGES = ("docs/openapi.yaml", "docs/parameters.md", "docs/commands.md", "docs/configuration.md")
VOLATILE = re.compile(r"time|seconds|per_second|peak_memory|^process$")
"""Keys whose values differ between two equal runs."""
FORK = multiprocessing.get_context("fork")
LONG_LIST = 50
"""Events and files are fewer; the states of generators are longer."""
MAX_ROWS = 200
IMAGE: dict[str, Any] = {
    "adaptor_name": "tiny",
    "max_train_steps": 3,
    "checkpoint_every_steps": 2,
    "resolution": 64,
    "learning_rate": 1e-2,
    "gradient_accumulation_steps": 2,
    "lora_dropout": 0.3,
    "caption_dropout_rate": 0.3,
    "random_flip": True,
    "log_to_tensorboard": False,
}
EVALUATION: dict[str, Any] = {
    "validation_split": 0.3,
    "eval_every_steps": 2,
    "eval_prompt": "a cat",
    "eval_num_inference_steps": 2,
}
TEXT: dict[str, Any] = {
    "adaptor_name": "tiny",
    "train_steps": 3,
    "save_steps": 2,
    "batch_size": 2,
    "dtype": "float32",
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "model_dropout": 0.2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "eval_prompts": ["the cat"],
    "log_to_tensorboard": False,
    "num_proc": 1,
    "max_length": 96,
}
LORA = {"lora": True, "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.3}


@dataclass(frozen=True)
class Job:
    method: str
    params: dict[str, Any]
    base: str = ""
    dataset: str = ""
    adaptor: str = ""
    """The earlier job whose adaptor it reads."""
    ranks: int = 1
    stopped: bool = False
    """Stopped after its first step and resumed in another folder."""
    details: dict[str, Any] = field(default_factory=dict)
    """Of the dataset."""


def jobs() -> dict[str, Job]:
    image = {f"image_{family}": Job("image_lora", IMAGE, family, "images") for family in IMAGE_FAMILIES}
    text = {
        f"text_{family}_{kind}": Job("masked_text", {**TEXT, "training_method": method, **extra}, family, "rows")
        for family, method in TEXT_METHODS.items()
        for kind, extra in (("full", {}), ("lora", LORA))
    }
    dream = {**TEXT, **LORA, "training_method": "dream", "resp_cutoff_ratio": 0.5, "train_steps": 4}
    evaluated = {**IMAGE, **EVALUATION, "max_train_steps": 4, "train_text_encoder": True}
    sampled = {"prompt": "a cat", "num_inference_steps": 2, "width": 64, "height": 64}
    answers = {"max_new_tokens": 8, "block_size": 8}
    return {
        **image,
        **text,
        "image_resumed": Job("image_lora", evaluated, "sd1", "images", stopped=True),
        "text_resumed": Job("masked_text", dream, "dream", "rows", stopped=True),
        "image_two_ranks": Job("image_lora", {**IMAGE, **EVALUATION}, "sd1", "images", ranks=2),
        "text_two_ranks": Job("masked_text", {**TEXT, "training_method": "llada"}, "llada", "rows", ranks=2),
        "sample_image": Job("sample_image", sampled, "sd1", adaptor="image_sd1"),
        "sample_text": Job("sample_text", {**answers, "prompts": ["the cat"]}, "llada", adaptor="text_llada_lora"),
        "evaluate_text": Job("evaluate_text", {**answers, "num_noises": 2}, "dream", "rows"),
        "import_adaptor": Job("import_adaptor", {"adaptor_name": "b"}, "sd1", "lora", details={"kind": "weights"}),
        "extract_adaptor": Job("extract_adaptor", {"adaptor_name": "c", "rank": 2}, "sd1", adaptor="image_sd1"),
        "merge": Job("merge", {"name": "merged"}, "sd1", adaptor="image_sd1"),
        "inspect_images": Job("inspect_dataset", {"template_params": {"resolution": 64}}, "sd1", "images"),
        "inspect_rows": Job(
            "inspect_dataset",
            {"template_method": "masked_text", "template_params": {"training_method": "llada", "max_length": 96}},
            "llada",
            "rows",
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("record", "check"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured; default: all")
    arguments = parser.parse_args()
    folder, parts = arguments.folder.resolve(), arguments.parts
    if arguments.action == "record":
        inputs_make(folder / "inputs")
        facts = dict(measure(folder / "inputs", parts))
        (folder / "record.json").write_text(json.dumps(facts, indent=0, sort_keys=True))
        print(f"{len(facts)} values recorded in {folder / 'record.json'}")
        return 0
    recorded = json.loads((folder / "record.json").read_text())
    expected = {key: value for key, value in recorded.items() if part_of(key) in parts}
    rows = differences(expected, dict(measure(folder / "inputs", parts)))
    print(table(("what", "recorded", "now"), rows[:MAX_ROWS]) if rows else f"{len(expected)} values, all unchanged")
    if len(rows) > MAX_ROWS:
        print(f"and {len(rows) - MAX_ROWS} more")
    return 1 if rows else 0


def differences(expected: dict[str, Any], actual: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    keys = sorted(expected.keys() | actual.keys())
    pairs = ((key, expected.get(key, "-"), actual.get(key, "-")) for key in keys)
    return [(key, before, now) for key, before, now in pairs if before != now]


def inputs_make(folder: Path) -> None:
    """Bases by the builders of the tests, images of noise, rows. Replaces what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    for module, families in (("tests.tiny_families", IMAGE_FAMILIES), ("tests.tiny_text", tuple(TEXT_METHODS))):
        builders = importlib.import_module(module).BUILDERS
        for family in families:
            builders[family](folder / family)
    (folder / "images").mkdir()
    for index in range(6):
        noise = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((80, 64), Image.Resampling.BILINEAR).save(folder / "images" / f"{index}.png")
        (folder / "images" / f"{index}.txt").write_text(("cat", "dog", "photo of cat")[index % 3])
    (folder / "rows").mkdir()
    rows = [{"prompt": f"the cat {n}", "completion": f"in an one {n * 7}"} for n in range(12)]
    (folder / "rows" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def part_of(key: str) -> str:
    return "tests" if key.startswith("test ") else "pages" if key in PAGES else "jobs"


def measure(inputs: Path, parts: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """(what, value) of everything that must stay the same."""
    if "jobs" in parts:
        with tempfile.TemporaryDirectory(prefix="anneal-unchanged-") as scratch:
            for name, job in jobs().items():
                start = time.monotonic()
                for out in job_run(name, job, inputs, Path(scratch)):
                    label = out.parent.relative_to(scratch).as_posix()
                    yield from ((f"{label}/{path}", value) for path, value in fingerprint(out))
                print(f"{name}: {time.monotonic() - start:.1f} s", file=sys.stderr)
    if "pages" in parts:
        yield from ((page, sha256(REPOSITORY / page)) for page in PAGES)
    if "tests" in parts:
        yield from test_names()


def job_run(name: str, job: Job, inputs: Path, scratch: Path) -> list[Path]:
    """Runs it; its out/ folders, two where it was stopped and resumed. Raises AssertionError when it fails."""
    first = folder_make(scratch / name, job, inputs, scratch)
    if not job.stopped:
        trainer_run(first, job.ranks)
        return [first / "out"]
    (first / "in" / "control").write_text(json.dumps({"seq": 1, "command": "stop"}))
    trainer_run(first, job.ranks)
    second = folder_make(scratch / f"{name}_again", job, inputs, scratch)
    newest = max((first / "out" / "checkpoints").glob("step-*"))
    shutil.copytree(newest, second / "in" / "checkpoint")
    trainer_run(second, job.ranks)
    return [first / "out", second / "out"]


def folder_make(folder: Path, job: Job, inputs: Path, scratch: Path) -> Path:
    """spec.json and in/ as a worker lays them out."""
    (folder / "in" / "adaptor").mkdir(parents=True)
    refs: dict[str, Any] = {}
    for role, source, details in (("model", job.base, {}), ("dataset", job.dataset, job.details)):
        if source:
            path = inputs / source
            if source == "lora":
                path = lora_folder(scratch)
            (folder / "in" / role).symlink_to(path)
            refs[role] = {"name": f"{source}@1", "key": source, "sha256": "0" * 64, "details": details}
    if job.adaptor:
        (folder / "in" / "adaptor" / "0").symlink_to(scratch / job.adaptor / "out" / "adaptor")
        refs["adaptors"] = [{"name": "tiny@1", "key": "tiny", "sha256": "1" * 64}]
    resources = {"strategy": "ddp", "processes": job.ranks} if job.ranks > 1 else {"accelerators": 0}
    spec = {"name": "job", "method": job.method, "params": job.params, "inputs": refs, "resources": resources}
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder


def lora_folder(scratch: Path) -> Path:
    """A folder with the kohya file of an earlier job alone, as people bring it."""
    folder = scratch / "lora"
    if not folder.exists():
        folder.mkdir()
        files = list((scratch / "image_sd1" / "out" / "adaptor").glob("*.safetensors"))
        source = next(file for file in files if "pytorch_lora" not in file.name)
        shutil.copy(source, folder / "elsewhere.safetensors")
    return folder


def trainer_run(folder: Path, ranks: int) -> None:
    """The job's program: in this process, which has imported torch already, or as processes forked from it."""
    argv = [str(folder / name) for name in ("spec.json", "in", "out", "cache")]
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    if ranks > 1:
        ranks_run(argv, ranks)
        return
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = trainer.main(argv)
    assert code == 0, f"{folder.name}: exit code {code}\n{output.getvalue()[-3000:]}"


def ranks_run(argv: list[str], ranks: int) -> None:
    port = free_port()
    processes = [FORK.Process(target=rank_run, args=(argv, rank, ranks, port)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    log = Path(argv[0]).with_name("log.txt").read_text()
    assert not any(process.exitcode for process in processes), f"{argv[0]}: {log[-3000:]}"


def rank_run(argv: list[str], rank: int, ranks: int, port: int) -> None:
    """Never returns. What it prints goes to log.txt."""
    random.seed(0)  # multiprocessing seeds every child anew
    log = os.open(Path(argv[0]).with_name("log.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    os._exit(trainer.main(argv))


def fingerprint(out: Path) -> Iterator[tuple[str, Any]]:
    """Each file's SHA-256; of JSON each value, without times."""
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = path.relative_to(out).as_posix()
        if name == "events.jsonl":
            events = [json.loads(line)["data"] for line in path.read_text().splitlines()]
            lasting = [event for event in events if event["kind"] != "progress"]
            yield from leaves(lasting, name)
        elif path.suffix == ".json":
            yield from leaves(json.loads(path.read_text()), name)
        else:
            yield name, sha256(path)


def leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Each number and text in `value`; of a long list its SHA-256, of a JSON file, which holds times, only the path."""
    if isinstance(value, dict):
        of_json = str(value.get("path", "")).endswith((".json", ".jsonl"))
        for key, inner in value.items():
            if not VOLATILE.search(key) and not (of_json and key in ("sha256", "size")):
                yield from leaves(inner, f"{place}.{key}")
    elif isinstance(value, list) and len(value) > LONG_LIST:
        yield place, hashlib.sha256(json.dumps(value).encode()).hexdigest()
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{place}[{index}]")
    else:
        yield place, value


def test_names() -> Iterator[tuple[str, int]]:
    """How many tests have a name, without their file: a moved test is the same test."""
    printed = python("-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests")
    ids = (line for line in printed.splitlines() if "::" in line)
    for name, count in Counter(line.partition("::")[2] for line in ids).items():
        yield f"test {name}", count


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
