"""Files over signed links: what is tried again, what is not, and where a broken one goes on."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.worker.fake_api import FakeApi
from worker.attempt.publish import Publisher
from worker.client.api import Api
from worker.client.lease import Lease
from worker.errors import AttemptError
from worker.transfer.out_folder import OutFolder
from worker.transfer.transfer import RemoteFile, Retry, download, repeated

DATA = b"0123456789" * 100
FILE = RemoteFile("deep/a.bin", len(DATA), hashlib.sha256(DATA).hexdigest())


def no_wait(_: float) -> None:
    return


RETRY = Retry(3, 0.001, no_wait)


def fetch(
    target: Path, answer: Callable[[httpx.Request], httpx.Response], requests: list[str | None] | None = None
) -> list[str | None]:
    """Downloads FILE from `answer`; returns the Range of each request."""
    requests = [] if requests is None else requests

    def handle(request: httpx.Request) -> httpx.Response:
        requests.append(request.headers.get("Range"))
        return answer(request)

    client = httpx.Client(transport=httpx.MockTransport(handle))
    repeated("a.bin", RETRY, lambda: download(client, "http://s/a", FILE, target, no_wait), expired=lambda: None)
    return requests


def test_a_broken_transfer_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    def half_then_rest(request: httpx.Request) -> httpx.Response:
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        return httpx.Response(206 if start else 200, stream=httpx.ByteStream(DATA[start:] if start else DATA[:300]))

    assert fetch(tmp_path / "a", half_then_rest) == [None, "bytes=300-"]
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_storage_without_ranges_starts_again(tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(DATA[:300])
    assert fetch(tmp_path / "a", lambda _: httpx.Response(200, stream=httpx.ByteStream(DATA))) == ["bytes=300-"]
    assert (tmp_path / "a").read_bytes() == DATA


def test_503_is_tried_again_until_the_attempts_are_used_up(tmp_path: Path) -> None:
    requests: list[str | None] = []
    with pytest.raises(AttemptError, match="failed 3 times") as result:
        fetch(tmp_path / "a", lambda _: httpx.Response(503), requests)
    assert len(requests) == 3 and result.value.reason.code == "storage_refused" and "503" in result.value.reason.detail


S3_TIMEOUT = httpx.Response(400, content=b"<Error><Code>RequestTimeout</Code></Error>")


@pytest.mark.parametrize("answer", [S3_TIMEOUT, httpx.Response(404, content=b"<h1>404</h1>"), httpx.Response(302)])
def test_one_answer_of_a_gateway_or_a_slow_storage_fails_no_download(tmp_path: Path, answer: httpx.Response) -> None:
    answers = iter([answer, httpx.Response(200, stream=httpx.ByteStream(DATA))])
    fetch(tmp_path / "a", lambda _: next(answers))
    assert (tmp_path / "a").read_bytes() == DATA


@pytest.mark.parametrize("parts", [1 << 30, 400])
def test_one_400_of_the_storage_fails_no_upload(tmp_path: Path, api: FakeApi, parts: int) -> None:
    publisher, attempt = publishing(tmp_path, api)
    api.part_bytes, api.storage_failures, api.storage_failure_status = parts, 1, 400
    publisher.upload([("samples/a", tmp_path / "a")], RETRY)
    assert api.files[f"jobs/{attempt}/samples/a"] == DATA


def test_a_file_that_stays_missing_is_named_after_a_bounded_number_of_tries(tmp_path: Path) -> None:
    requests: list[str | None] = []
    endless = Retry(10**9, 0.001, no_wait)
    client = httpx.Client(transport=httpx.MockTransport(lambda _: requests.append(None) or httpx.Response(404)))
    with pytest.raises(AttemptError) as result:
        repeated("a", endless, lambda: download(client, "http://s/a", FILE, tmp_path / "a", no_wait), expired=print)
    assert len(requests) == 8 and "answered 404 for deep/a" in result.value.reason.detail


def test_a_wrong_digest_is_tried_once_more_and_then_named(tmp_path: Path) -> None:
    with pytest.raises(AttemptError, match="expected 1000 bytes") as result:
        fetch(tmp_path / "a", lambda _: httpx.Response(200, stream=httpx.ByteStream(DATA[::-1])))
    assert result.value.reason.code == "input_corrupt" and not list(tmp_path.iterdir())


def test_a_full_disk_has_its_reason(tmp_path: Path) -> None:
    (tmp_path / "a.part").symlink_to("/dev/full")
    with pytest.raises(AttemptError) as result:
        fetch(tmp_path / "a", lambda _: httpx.Response(200, stream=httpx.ByteStream(DATA)))
    assert result.value.reason.code == "disk_full"


def test_an_upload_whose_link_ran_out_gets_a_fresh_one(tmp_path: Path, api: FakeApi) -> None:
    publisher, attempt = publishing(tmp_path, api)
    api.expired_links.add(f"/storage/jobs/{attempt}/samples/a")
    records = publisher.upload([("samples/a", tmp_path / "a")], RETRY)
    assert records == [{"path": "samples/a", "size": FILE.size, "sha256": FILE.sha256}]
    assert api.files[f"jobs/{attempt}/samples/a"] == DATA and not api.expired_links


def test_a_large_file_goes_in_parts_and_a_failed_part_goes_again_alone(tmp_path: Path, api: FakeApi) -> None:
    publisher, attempt = publishing(tmp_path, api)
    api.part_bytes, api.storage_failures = 400, 2
    publisher.upload([("samples/a", tmp_path / "a")], RETRY)
    assert api.files[f"jobs/{attempt}/samples/a"] == DATA
    assert [path.rpartition("/")[2] for path in api.sent] == ["1", "2", "3"]


def test_parts_whose_links_ran_out_go_on_in_the_same_upload(tmp_path: Path, api: FakeApi) -> None:
    publisher, attempt = publishing(tmp_path, api)
    api.part_bytes, links = 400, api.part_links

    def expiring(file: dict[str, Any]) -> dict[str, Any]:
        result = links(file)
        if "upload_id" not in file:
            api.expired_links.add(result["parts"][1]["url"])
        return result

    api.part_links = expiring  # type: ignore[method-assign]
    publisher.upload([("samples/a", tmp_path / "a")], RETRY)
    assert api.files[f"jobs/{attempt}/samples/a"] == DATA and not api.expired_links
    assert [path.rpartition("/")[2] for path in api.sent] == ["1", "2", "3"]


def test_parts_that_made_no_file_are_all_sent_again(tmp_path: Path, api: FakeApi) -> None:
    publisher, attempt = publishing(tmp_path, api)
    api.part_bytes = 400
    joined = api.join
    answers = iter([(409, {"code": "part_missing", "message": "one is not there"})])
    api.join = lambda attempt, body: next(answers, None) or joined(attempt, body)  # type: ignore[method-assign]
    publisher.upload([("samples/a", tmp_path / "a")], RETRY)
    assert api.files[f"jobs/{attempt}/samples/a"] == DATA
    assert len(api.sent) == 6


def publishing(tmp_path: Path, api: FakeApi) -> tuple[Publisher, str]:
    """A publisher of an attempt, and the attempt's id; the file `a` holds DATA."""
    api.hello({"worker": "w"})
    api.add_job()
    api.claim({"claim_id": "c", "free_accelerators": []})
    attempt = api.only()
    speaker = Api(api.url, "anw_x").attempt(attempt.id, attempt.token, Lease(0.0, 1e9))
    (tmp_path / "a").write_bytes(DATA)
    return Publisher(speaker, httpx.Client(), OutFolder(tmp_path), tmp_path / "staging", 0.001), attempt.id
