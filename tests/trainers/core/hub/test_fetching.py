"""fetch_model and fetch_dataset against a small Hub over real HTTP, with the real huggingface_hub."""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from pydantic import ValidationError

from tests.trainers.core.hub.hub_server import COMMIT, Hub, hub_server
from tests.trainers.job import FORKSERVER, Job
from trainers.contract.params.fetch import FetchDatasetParams, FetchModelParams

MODEL = {
    "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
    "unet/model.safetensors": os.urandom(5000),
    "tokenizer/merges.txt": b"a b\n",
}
UNSAFE = {"unet/model.bin": b"pickle", "pipeline.py": b"print(1)", ".gitattributes": b"", "README.md": b"# hi"}
INDEX = {"model_index.json": MODEL["model_index.json"]}
TOKEN = "hf_" + "t" * 30
Fetch = Callable[..., Job]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server(files={**MODEL, **UNSAFE}) as hub:
        yield hub


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests as a whole are offline; the Hub of these is on this host."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def fetch(hub: Hub, tmp_path: Path) -> Fetch:
    """Prepares a job; `fetch(method, **params)` and then `.run()`."""

    def make(method: str = "fetch_model", folder: str = "job", **params: Any) -> Job:
        job = Job(tmp_path / folder, tmp_path / "cache")
        job.inputs.mkdir(parents=True, exist_ok=True)
        expected = {"name": "tiny", "repo": "me/tiny", "endpoint": hub.url, **params}
        job.root.joinpath("spec.json").write_text(json.dumps({"name": "job", "method": method, "params": expected}))
        return job

    return make


def fetched(job: Job, folder: str = "model") -> dict[str, bytes]:
    root = job.out / folder
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def failed(job: Job) -> Any:
    assert job.run() == 1
    return job.failure().reason


def test_a_model_arrives_without_pickles_and_code_and_says_where_it_came_from(fetch: Fetch, hub: Hub) -> None:
    job = fetch(revision="v1")
    assert job.run() == 0
    assert fetched(job) == MODEL
    assert job.manifest["source"] == {"endpoint": hub.url, "repo": "me/tiny", "revision": "v1", "commit": COMMIT}
    assert {file["path"] for file in job.manifest["files"]} == {f"model/{path}" for path in MODEL}
    (warning,) = job.of_kind("warning")
    assert "pickled weights can run code: unet/model.bin" in warning.message
    assert "pipeline.py" in warning.message
    assert job.of_kind("progress")[-1].done == sum(len(data) for data in MODEL.values())
    assert not list((job.cache / "fetch").glob("*/*")), "nothing is kept of a whole download"
    requests = [path for _, path, _ in hub.requests]
    assert not any(name in path for path in requests for name in ("model.bin", "pipeline.py"))


def test_a_dataset_arrives_with_its_images_and_captions(fetch: Fetch, hub: Hub) -> None:
    hub.files = {"a.png": b"x" * 2000, "metadata.jsonl": b"{}\n", "data/train.parquet": b"PAR1", "load.py": b""}
    job = fetch("fetch_dataset")
    assert job.run() == 0
    assert set(fetched(job, "dataset")) == {"a.png", "metadata.jsonl", "data/train.parquet"}
    assert hub.requests[0][1].startswith("/api/datasets/me/tiny/revision/main")


def test_patterns_choose_and_leave_out(fetch: Fetch) -> None:
    job = fetch(allow=["*.json", "unet/*"], ignore=["*.bin"])
    assert job.run() == 0
    assert set(fetched(job)) == {"model_index.json", "unet/model.safetensors"}
    assert not job.of_kind("warning")


def test_a_killed_download_resumes_at_its_last_byte(fetch: Fetch, hub: Hub) -> None:
    size = 3 << 20
    hub.files = {**INDEX, "weights.safetensors": os.urandom(size)}
    hub.stall_after = 2 << 20
    job = fetch()
    process = FORKSERVER.Process(target=_run, args=(job.root, job.cache))
    process.start()
    job.wait_until(lambda: bool(_parts(job)) and _parts(job)[0].stat().st_size > 1000)
    process.kill()
    process.join()
    have = _parts(job)[0].stat().st_size
    hub.stall_after = 0
    hub.going_on.set()
    again = fetch(folder="again")
    assert again.run() == 0
    assert hub.ranges() == [f"bytes={have}-"]
    assert fetched(again) == hub.files


def _run(root: Path, cache: Path) -> None:
    constants.HF_HUB_OFFLINE = False
    os._exit(Job(root, cache).run())


def _parts(job: Job) -> list[Path]:
    """The largest first."""
    result = [path for path in (job.cache / "fetch").glob("*/*") if path.is_file()]
    return sorted(result, key=lambda path: -path.stat().st_size)


def test_a_download_resumes_after_a_broken_connection(fetch: Fetch, hub: Hub) -> None:
    hub.files = {**INDEX, "weights.safetensors": os.urandom(3 << 20)}
    hub.cut_after = (2 << 20) + 5
    job = fetch()
    assert job.run() == 0
    assert hub.ranges() == [f"bytes={2 << 20}-"]
    assert fetched(job) == hub.files


def test_a_stop_in_the_middle_of_a_file_keeps_the_partial_download(fetch: Fetch, hub: Hub) -> None:
    hub.files = {**INDEX, "weights.safetensors": os.urandom(3 << 20)}
    hub.stall_after = 2 << 20
    job = fetch()

    def stop() -> None:
        job.wait_until(lambda: bool(_parts(job)) and _parts(job)[0].stat().st_size > 1000)
        job.command(3, "stop")
        hub.going_on.set()

    thread = threading.Thread(target=stop)
    thread.start()
    assert job.run() == 0
    thread.join()
    assert job.manifest["outcome"] == "stopped"
    assert [control.seq for control in job.of_kind("control")] == [3]
    assert _parts(job)


def test_a_model_of_another_family_fails_before_its_weights_are_fetched(fetch: Fetch, hub: Hub) -> None:
    hub.files = {"model.safetensors": os.urandom(2000), "model_index.json": b'{"_class_name": "KandinskyPipeline"}'}
    reason = failed(fetch())
    assert (reason.code, "KandinskyPipeline" in reason.message) == ("bad_base_model", True)
    hub.files["model_index.json"] = MODEL["model_index.json"]
    assert failed(fetch(folder="other", family="sdxl")).code == "bad_base_model"
    del hub.files["model_index.json"]
    assert failed(fetch(folder="none")).code == "bad_base_model"
    assert not any("cdn" in path for _, path, _ in hub.requests)
    hub.files = MODEL
    assert fetch(folder="same", family="sd1").run() == 0


def test_the_width_of_the_text_encoder_tells_stable_diffusion_2_from_1(fetch: Fetch, hub: Hub) -> None:
    hub.files = MODEL | {"text_encoder/config.json": b'{"hidden_size": 1024}'}
    assert failed(fetch(folder="first", family="sd1")).message == "me/tiny is of family sd2; expected sd1."
    assert not any("unet" in path for _, path, _ in hub.requests if path.startswith("/me/tiny/resolve"))
    assert fetch(folder="second", family="sd2").run() == 0


def test_a_language_model_comes_with_its_tokenizer(fetch: Fetch, hub: Hub) -> None:
    stored = {"config.json": b'{"model_type": "LLaDA"}', "model.safetensors": os.urandom(2000), "merges.txt": b"a b"}
    stored |= {"tokenizer.model": b"spiece", "chat_template.jinja": b"{{ messages }}"}
    hub.files = stored | {"modeling_llada.py": b"print()"}
    job = fetch(family="llada")
    assert job.run() == 0
    assert fetched(job) == stored
    hub.files = {**hub.files, "config.json": b'{"model_type": "gpt2"}'}
    assert "model_type is 'gpt2', expected one of llada" in failed(fetch(folder="other")).message


@pytest.mark.parametrize(
    ("switch", "params", "code", "message"),
    [
        ({}, {"repo": "me/nothing"}, "repo_not_found", "me/nothing"),
        ({}, {"revision": "v9"}, "revision_not_found", "'v9'"),
        ({"gated": True}, {}, "repo_gated", "without a token"),
        ({"token": TOKEN}, {}, "repo_gated", "401"),
        ({"corrupt": True}, {}, "input_corrupt", "digest"),
        ({"sizes": {"unet/model.safetensors": 1 << 50}}, {"max_gigabytes": 10_000}, "bad_parameters", "max_gigabytes"),
        ({"sizes": {"unet/model.safetensors": 9 << 40}}, {"max_gigabytes": 10_000}, "disk_full", "GB free"),
        ({"sizes": {"unet/model.safetensors": 10}}, {}, "input_corrupt", "announced"),
        ({"files": UNSAFE}, {}, "bad_base_model", "unet/model.bin"),
        ({"files": {}}, {}, "bad_base_model", "none"),
        ({"files": {"../../etc/x.json": b"{}", "/x.json": b"{}", "a/../b.json": b"{}"}}, {}, "bad_base_model", "etc"),
    ],
)
def test_each_way_to_fail_has_its_reason(
    fetch: Fetch, hub: Hub, switch: dict[str, Any], params: dict[str, Any], code: str, message: str
) -> None:
    vars(hub).update(switch)
    job = fetch(**params)
    reason = failed(job)
    assert (reason.code, message in reason.message) == (code, True), reason
    assert not (job.out / "manifest.json").exists()


def test_an_unreachable_hub_is_reported_as_retryable(fetch: Fetch) -> None:
    reason = failed(fetch(endpoint="http://127.0.0.1:1"))
    assert (reason.code, reason.retry_helps) == ("hub_unreachable", True)


def test_a_token_is_sent_only_to_the_hub(
    fetch: Fetch, hub: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.token = TOKEN
    job = fetch()
    with hub_server(files=dict(hub.files)) as cdn:
        hub.cdn = cdn.url
        assert failed(job).code == "address_refused", "another port of this host is not the Hub that was listed"
    assert not cdn.requests
    hub.cdn = ""
    again = fetch(folder="again")
    assert again.run() == 0
    assert TOKEN not in "".join(path.read_text(errors="replace") for path in again.out.rglob("*") if path.is_file())
    reported = capfd.readouterr()
    assert TOKEN not in reported.out + reported.err


def test_a_file_elsewhere_is_fetched_without_the_token(fetch: Fetch, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.token = TOKEN
    with hub_server(files=dict(hub.files)) as cdn:
        hub.cdn = cdn.url
        monkeypatch.setattr("trainers.core.hub.outgoing.Guard.url", lambda *_: None)
        monkeypatch.setattr("trainers.core.hub.outgoing.Guard.address", lambda *_: None)
        assert fetch().run() == 0
    assert cdn.requests
    assert not any("authorization" in headers for _, _, headers in cdn.requests)


@pytest.mark.parametrize(
    "cdn",
    ["http://169.254.169.254", "http://10.0.0.1", "http://[::ffff:127.0.0.1]:1", "https://127.1", "http://8.8.8.8"],
)
def test_a_redirect_into_our_own_network_is_refused(fetch: Fetch, hub: Hub, cdn: str) -> None:
    hub.cdn = cdn
    assert failed(fetch()).code == "address_refused"


def test_the_well_known_hub_may_not_resolve_to_a_private_address(
    fetch: Fetch, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.core.hub.client.HUB", hub.url)
    assert failed(fetch()).code == "address_refused"
    assert not hub.requests


def test_two_jobs_of_one_spec_do_not_disturb_each_other(fetch: Fetch, hub: Hub) -> None:
    hub.files = {**INDEX, "weights.safetensors": os.urandom(3 << 20)}
    hub.stall_after = 2 << 20
    first, second = fetch(), fetch(folder="second")
    process = FORKSERVER.Process(target=_run, args=(first.root, first.cache))
    process.start()
    first.wait_until(lambda: bool(_parts(first)) and _parts(first)[0].stat().st_size > 1000)
    hub.stall_after = 0
    assert second.run() == 0
    hub.going_on.set()
    process.join()
    assert fetched(first) == fetched(second) == hub.files


def test_a_file_that_cannot_be_linked_is_copied(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    job = fetch()
    assert job.run() == 0
    assert fetched(job) == MODEL


@pytest.mark.parametrize(
    "wrong",
    [
        {"repo": "a/b/c"},
        {"repo": "../x"},
        {"revision": "-x"},
        {"name": "a/b"},
        {"endpoint": "file:///etc"},
        {"endpoint": "https://user:pw@huggingface.co"},
        {"endpoint": "https://2130706433"},
        {"secrets": ["HUB"]},
        {"max_gigabytes": 0},
        {"trust_remote_code": True},
    ],
)
def test_invalid_fetch_parameters_are_refused(wrong: dict[str, Any]) -> None:
    for params in (FetchModelParams, FetchDatasetParams):
        with pytest.raises(ValidationError):
            params.model_validate({"name": "x", "repo": "me/x", **wrong})


def test_the_digest_of_a_small_file_is_gits_own() -> None:
    data = b"hello\n"
    assert hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == "ce013625030ba8dba906f756967f9e9ca394464a"


ROWS = b'{"question": "a", "answer": "b"}\n'
CARD = b"""---
license: mit
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
- config_name: socratic
  data_files:
  - split: train
    path: socratic/part*
  - split: hard
    path: [socratic/hard.jsonl]
---
# GSM8K
"""
GSM8K = {
    "README.md": CARD,
    "main/train-00000-of-00001.jsonl": ROWS,
    "main/test-00000-of-00001.jsonl": ROWS,
    "socratic/part1.jsonl": ROWS,
    "socratic/hard.jsonl": ROWS,
}
BARE = {path: data for path, data in GSM8K.items() if path != "README.md"} | {"socratic/test.jsonl": ROWS}
LAYOUTS = [
    (GSM8K, {"config": "main"}, {"main/train-00000-of-00001.jsonl", "main/test-00000-of-00001.jsonl"}),
    (GSM8K, {"config": "main", "split": "test"}, {"main/test-00000-of-00001.jsonl"}),
    (GSM8K, {"config": "socratic"}, {"socratic/part1.jsonl", "split=hard/socratic/hard.jsonl"}),
    (GSM8K, {"config": "socratic", "split": "hard"}, {"split=hard/socratic/hard.jsonl"}),
    (GSM8K, {"allow": ["main/*"]}, {"main/train-00000-of-00001.jsonl", "main/test-00000-of-00001.jsonl"}),
    (BARE, {"config": "main", "split": "train"}, {"main/train-00000-of-00001.jsonl"}),
    ({"train.jsonl": ROWS, "dev.jsonl": ROWS}, {"split": "validation"}, {"dev.jsonl"}),
    ({"a/1.jsonl": ROWS, "b/2.jsonl": ROWS}, {}, {"a/1.jsonl", "b/2.jsonl"}),
    (
        {"README.md": CARD.replace(b"config_name: main", b"config_name: main\n  default: true")} | BARE,
        {},
        {"main/train-00000-of-00001.jsonl", "main/test-00000-of-00001.jsonl"},
    ),
]


@pytest.mark.parametrize(("files", "params", "expected"), LAYOUTS)
def test_one_configuration_is_fetched_and_its_splits_stay_apart(
    fetch: Fetch, hub: Hub, files: dict[str, bytes], params: dict[str, Any], expected: set[str]
) -> None:
    hub.files = files
    job = fetch("fetch_dataset", **params)
    assert job.run() == 0, job.of_kind("failed")
    assert {*fetched(job, "dataset")} == expected


@pytest.mark.parametrize(
    ("files", "params", "message"),
    [
        (GSM8K, {}, "the repository has the configurations main, socratic; choose one by config"),
        (GSM8K, {"config": "other"}, "config='other' is not in the repository, which has main, socratic"),
        (GSM8K, {"config": "main", "split": "dev"}, "split='dev' is not in me/tiny, which has train, test"),
        (BARE, {}, "the repository has the configurations main, socratic; choose one by config"),
        (BARE, {"config": "other"}, "its folders are main, socratic"),
    ],
)
def test_several_configurations_are_never_pooled(
    fetch: Fetch, hub: Hub, files: dict[str, bytes], params: dict[str, Any], message: str
) -> None:
    hub.files = files
    reason = failed(fetch("fetch_dataset", **params))
    assert (reason.code, message in reason.message) == ("bad_parameters", True), reason.message
