"""From template to image and through every way a job can end, with real processes and a tiny base model."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import httpx
import pytest
from PIL import Image

from cli.downloads import samples_of
from cli.http import Client, Record, job_events
from cli.platform.children import Child, child_start, child_stop
from cli.platform.home import home_open
from cli.platform.services import PYTHON, worker_env
from tests.e2e.conftest import Embedded, ended, until


@pytest.fixture(scope="module")
def trained(platform: Embedded) -> list[Any]:
    """A job of the template, watched to its end: its events, then the job itself."""
    evaluate = ("--set", "eval_prompt=all red", "--set", "eval_every_steps=3", "--set", "eval_num_inference_steps=2")
    job = platform.json("job", "submit", "--template", "quick", *evaluate)["id"]
    return [json.loads(line) for line in platform.anneal("job", "watch", job, "--json").splitlines()]


def test_a_watched_job_tells_its_story_and_keeps_its_samples(
    platform: Embedded, trained: list[Any], tmp_path: Path
) -> None:
    job = trained[-1]
    states = [event["data"]["state"] for event in trained[:-1] if event["kind"] == "state"]
    reported = [
        event["kind"]
        for event in trained[:-1]
        if event["kind"] not in ("state", "phase", "step", "progress", "artifact", "warning")
    ]
    assert job["state"] == "succeeded"
    assert states == ["queued", "claimed", "running", "succeeded"]
    phases = [event["data"]["phase"] for event in trained[:-1] if event["kind"] == "phase"]
    assert phases[0] == "fetching" and set(phases) <= {"fetching", "importing", "loading"}
    assert (reported[0], reported[-1]) == ("started", "finished")
    assert reported.index("sample") < reported.index("checkpoint"), "the first image comes before the first step"
    samples = platform.json("job", "samples", job["id"], "--output", str(tmp_path))
    assert {sample["step"] for sample in samples} == {0, 3, 6}
    assert [Image.open(path).size for path in tmp_path.iterdir()] == [(64, 64)] * 3
    assert len(platform.json("job", "metrics", job["id"], "--name", "loss")["loss"]) == 6


@pytest.mark.slow
def test_a_trainer_by_hand_makes_the_same_steps_of_the_same_spec(
    platform: Embedded, trained: list[Any], tmp_path: Path
) -> None:
    """The recipe that `anneal job spec` prints."""
    job, folder = trained[-1]["id"], tmp_path / "by-hand"
    written = platform.json("job", "spec", job, "-o", str(folder))
    assert written == {"spec": str(folder / "spec.json"), "inputs": ["dataset", "model"]}
    command = [sys.executable, "-m", "trainers.run", "spec.json", "in/", "out/", "cache/"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    by_hand = json.loads((folder / "out" / "manifest.json").read_text())
    recorded = json.loads(platform.anneal("job", "manifest", job))
    assert (by_hand["outcome"], by_hand["spec_digest"]) == ("succeeded", recorded["spec_digest"])
    assert by_hand["steps"] == recorded["steps"]


def test_the_curves_of_a_job_are_mirrored_for_tensorboard(
    platform: Embedded, trained: list[Any], tmp_path: Path
) -> None:
    job = trained[-1]["id"]
    platform.anneal("job", "tensorboard", job, "-o", str(tmp_path / "mirror"), "--mirror-only", "--every", "1")
    platform.json("job", "artifacts", job, "--kind", "tensorboard", "-o", str(tmp_path / "whole"))
    mirrored = {path.name: path.read_bytes() for path in (tmp_path / "mirror" / "attempt-1").iterdir()}
    assert mirrored == {path.name: path.read_bytes() for path in (tmp_path / "whole" / "tensorboard").iterdir()}


def test_an_adaptor_has_its_manifest_and_loads_in_stock_diffusers(
    platform: Embedded, trained: list[Any], tiny_sd: Path, tmp_path: Path
) -> None:
    adaptor = platform.json("adaptor", "show", f"plain@{trained[-1]['adaptor']['version']}")
    assert (adaptor["partial"], adaptor["trigger_word"]) == (False, "zqx")
    platform.anneal("adaptor", "pull", "plain@1", "--output", str(tmp_path))
    assert json.loads((tmp_path / "manifest.json").read_text()) == adaptor["manifest"]
    pipeline: Any = diffusers.StableDiffusionPipeline
    loaded = pipeline.from_pretrained(tiny_sd, local_files_only=True)
    loaded.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    assert loaded.get_list_adapters() == {"unet": ["default_0"]}


@pytest.mark.usefixtures("trained")
def test_an_adaptor_makes_images_at_once(platform: Embedded, tmp_path: Path) -> None:
    sheet = tmp_path / "comparison.png"
    options = ("--adaptor", "plain:0.8", "--compare", "--set", "num_inference_steps=2", "--output", str(sheet))
    assert platform.json("sample", "--prompt", "all red", *options)["files"] == [str(sheet)]
    assert Image.open(sheet).width >= 3 * 64, "base, adaptor, adaptor + trigger word"


def test_a_queued_job_is_cancelled_at_once(platform: Embedded) -> None:
    job = platform.json("job", "submit", "--template", "quick", "--pool", "nobody")
    assert job["state"] == "queued"
    assert platform.json("job", "cancel", job["id"])["state"] == "cancelled"
    platform.anneal("job", "watch", job["id"], code=3)


@pytest.mark.slow
def test_a_running_job_is_cancelled_with_a_partial_adaptor(platform: Embedded, client: Client) -> None:
    long = ("--set=adaptor_name=halfway", "--set=max_train_steps=100000")
    evaluate = ("--set=eval_prompt=all red", "--set=eval_every_steps=20", "--set=eval_num_inference_steps=1")
    job = platform.json("job", "submit", "--template", "quick", *long, *evaluate)["id"]
    until(lambda: [s for s in samples_of(client, job) if s["step"]], what="a sample while it trains")
    assert client.get(f"jobs/{job}")["state"] == "running"
    platform.anneal("job", "cancel", job)
    result = ended(client, job)
    assert result["state"] == "cancelled"
    adaptor = client.get("adaptors/halfway")
    assert adaptor["partial"] is True
    assert adaptor["manifest"]["outcome"] == "stopped"


@pytest.mark.slow
def test_a_failing_trainer_says_why(platform: Embedded, client: Client) -> None:
    job = platform.json("job", "submit", "--template", "quick", "--set", "caption_column=nope")["id"]
    result = ended(client, job)
    assert result["state"] == "failed"
    assert result["reason"]["code"] == "bad_dataset"
    assert "nope" in result["reason"]["message"]
    assert "text" in result["reason"]["message"] + result["reason"]["detail"]
    platform.anneal("job", "watch", job, code=1)


def test_exit_0_without_a_manifest_has_failed(platform: Embedded, client: Client, tmp_path: Path) -> None:
    home = home_open(tmp_path / "second")
    port = int(httpx.URL(platform.login.url).port or 0)
    token = (platform.root / "worker_token").read_text()
    liar = f"{sys.executable} -c 'print(42)'"
    env = worker_env(home, port=port, token=token, broker_url="")
    env |= {"ANNEAL_TRAINER_COMMAND": liar, "ANNEAL_POOLS": "liars", "ANNEAL_ACCELERATORS": "none"}
    worker = Child("worker", [*PYTHON, "-m", "worker"], env, home.logs / "worker.log", stop_seconds=30)
    child_start(worker)
    try:
        job = platform.json("job", "submit", "--template", "quick", "--pool", "liars")["id"]
        result = ended(client, job)
    finally:
        child_stop(worker)
    assert result["state"] == "failed"
    assert result["reason"]["code"] == "no_manifest"
    assert "42" in platform.anneal("job", "logs", job)


@pytest.mark.slow
def test_a_job_whose_worker_was_killed_resumes_and_has_one_result(platform: Embedded, client: Client) -> None:
    named = ("--set", "adaptor_name=survivor", "--set", "max_train_steps=100", "--set", "checkpoint_every_steps=20")
    job = platform.json("job", "submit", "--template", "quick", *named)["id"]
    until(
        lambda: [a for a in client.get(f"jobs/{job}/artifacts")["results"] if a["kind"] == "checkpoint"],
        what="a checkpoint",
    )
    os.kill(worker_pid(platform), signal.SIGKILL)
    result = ended(client, job)
    assert result["state"] == "succeeded"
    assert [attempt["outcome"] for attempt in result["attempts"]] == ["lost", "succeeded"]
    assert result["attempts"][1]["resumed_from"] >= 20
    steps = [point[0] for point in client.get(f"jobs/{job}/metrics", name="loss")["series"]["loss"]]
    assert steps == list(range(1, 101)), "the curve has each step once"
    assert [a["version"] for a in client.pages("adaptors") if a["name"] == "survivor"] == [1]
    kinds = [event["kind"] for event in job_events(client, job) if event]
    assert kinds.count("started") == 2


def worker_pid(platform: Embedded) -> int:
    """The host process: the child of `anneal up` that runs `python -m worker`."""
    children = Path(f"/proc/{platform.pid}/task/{platform.pid}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in children}
    (result,) = [pid for pid, command in commands.items() if b"worker" in command]
    return result


def checkpoints_of(client: Client, job: str) -> list[Record]:
    return [row for row in client.get(f"jobs/{job}/artifacts")["results"] if row["kind"] == "checkpoint"]
