import json

from cli.config import Login
from cli.http import Client
from tests.cli.small_server import Answer, serving


def test_pages_stay_with_the_host_that_was_asked() -> None:
    requests: list[str] = []

    def handle(path: str, _: dict[str, str]) -> Answer:
        requests.append(path)
        following = "http://elsewhere.invalid:1/api/v1/jobs?cursor=cD0%3D&limit=1" if len(requests) == 1 else None
        return 200, {}, json.dumps({"results": [{"n": len(requests)}], "next": following}).encode()

    with serving(handle) as url, Client(Login(url, "ant_x")) as client:
        assert [row["n"] for row in client.pages("jobs", limit=1)] == [1, 2]
    assert requests == ["/api/v1/jobs?limit=1", "/api/v1/jobs?cursor=cD0%3D&limit=1"]
