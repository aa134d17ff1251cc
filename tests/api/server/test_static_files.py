"""Static files from the ASGI application itself."""

import asyncio

import httpx

from api.asgi import application

STYLES = "/static/unfold/css/styles.css"


def get(path: str, method: str = "GET", **headers: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(application)  # type: ignore[arg-type]  # httpx names the scope more closely
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(ask())


def test_files_of_installed_apps_are_served_without_collectstatic() -> None:
    answer = get(STYLES)
    assert (answer.status_code, answer.headers["content-type"]) == (200, 'text/css; charset="utf-8"')
    assert int(answer.headers["content-length"]) == len(answer.content) > 1000
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in answer.headers


def test_a_browser_that_has_the_file_is_not_sent_it_again() -> None:
    answer = get(STYLES, **{"If-Modified-Since": get(STYLES).headers["last-modified"]})
    assert (answer.status_code, answer.content) == (304, b"")


def test_only_get_and_head_and_ranges() -> None:
    assert (get(STYLES, "HEAD").status_code, get(STYLES, "HEAD").content) == (200, b"")
    assert get(STYLES, "POST").status_code == 405
    assert get(STYLES, Range="bytes=0-3").content == get(STYLES).content[:4]


def test_what_lies_elsewhere_is_not_served() -> None:
    for path in ("/static/%2e%2e/api/settings.py", "/static/unfold/", "/static/no-such-file.css"):
        assert get(path).status_code == 404
