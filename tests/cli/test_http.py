import json

import pytest

from cli.config import Login
from cli.errors import CliError
from cli.http import Client, job_events, parse
from foundation.protocol import PROTOCOL_HEADER
from tests.cli.small_server import Answer, serving


def sse(*seqs: int) -> bytes:
    return b"".join(b"id: %d\nevent: step\ndata: %s\n\n" % (n, json.dumps({"seq": n}).encode()) for n in seqs)


def test_comments_are_none_and_data_lines_are_joined() -> None:
    lines = [": keep-alive", "", "id: 1", 'data: {"seq":', "data: 1}", "", "data: {}"]
    assert list(parse(lines)) == [None, {"seq": 1}]


def test_a_broken_stream_goes_on_after_the_last_event() -> None:
    requests: list[str] = []

    def handle(path: str, headers: dict[str, str]) -> Answer:
        if not path.endswith("/stream"):
            return 200, {}, json.dumps({"state": "succeeded" if len(requests) > 1 else "running"}).encode()
        requests.append(headers["Last-Event-ID"])
        if len(requests) == 1:
            return 200, {"Content-Length": "9999"}, sse(1, 2)  # breaks off
        return 200, {}, sse(3)

    with serving(handle) as url, Client(Login(url, "ant_x")) as client:
        events = [event["seq"] for event in job_events(client, "abc") if event]
    assert events == [1, 2, 3]
    assert requests == ["0", "2"]


def test_a_stream_that_ends_before_the_job_does_is_opened_again() -> None:
    requests: list[str] = []

    def handle(path: str, headers: dict[str, str]) -> Answer:
        if not path.endswith("/stream"):
            return 200, {}, json.dumps({"state": "running" if len(requests) < 2 else "failed"}).encode()
        requests.append(headers["Last-Event-ID"])
        return 200, {}, sse(len(requests))

    with serving(handle) as url, Client(Login(url, "ant_x")) as client:
        assert [event["seq"] for event in job_events(client, "abc") if event] == [1, 2]


def test_a_refused_stream_is_an_error_at_once() -> None:
    refusal = json.dumps({"code": "not_found", "message": "no job abc", "hint": "", "fields": {}}).encode()
    with (
        serving(lambda *_: (404, {PROTOCOL_HEADER: "2"}, refusal)) as url,
        Client(Login(url, "ant_x")) as client,
        pytest.raises(CliError, match="no job abc"),
    ):
        list(job_events(client, "abc"))


@pytest.mark.parametrize("status", [401, 404, 410, 429, 502])
def test_what_a_gateway_answers_does_not_end_the_watch(status: int) -> None:
    requests: list[str] = []

    def handle(path: str, _: dict[str, str]) -> Answer:
        requests.append(path)
        if len(requests) == 1:
            return status, {"Content-Type": "text/html"}, b"<h1>default backend</h1>"
        if path.endswith("/stream"):
            return 200, {}, sse(1)
        return 200, {}, json.dumps({"state": "succeeded"}).encode()

    with serving(handle) as url, Client(Login(url, "ant_x")) as client:
        assert [event["seq"] for event in job_events(client, "abc") if event] == [1]


def test_pages_stay_with_the_host_that_was_asked() -> None:
    requests: list[str] = []

    def handle(path: str, _: dict[str, str]) -> Answer:
        requests.append(path)
        following = "http://elsewhere.invalid:1/api/v1/jobs?cursor=cD0%3D&limit=1" if len(requests) == 1 else None
        return 200, {}, json.dumps({"results": [{"n": len(requests)}], "next": following}).encode()

    with serving(handle) as url, Client(Login(url, "ant_x")) as client:
        assert [row["n"] for row in client.pages("jobs", limit=1)] == [1, 2]
    assert requests == ["/api/v1/jobs?limit=1", "/api/v1/jobs?cursor=cD0%3D&limit=1"]
