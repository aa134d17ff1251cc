import hashlib
from pathlib import Path

import httpx
import pytest

from cli import uploads
from cli.downloads import file_download
from cli.errors import CliError
from cli.uploads import folder_files, parts_put
from tests.cli.small_server import serving

CONTENT = b"image" * 1000
LINK = {"sha256": hashlib.sha256(CONTENT).hexdigest()}


def test_a_download_arrives_whole(tmp_path: Path) -> None:
    counted: list[int] = []
    with serving(lambda *_: (200, {}, CONTENT)) as url:
        target = file_download(LINK | {"url": url}, tmp_path / "deep" / "a.png", counted.append)
    assert target.read_bytes() == CONTENT
    assert sum(counted) == len(CONTENT)
    assert [path.name for path in target.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [({}, b"another", "expected SHA-256"), ({"Content-Length": "99999"}, CONTENT, "does not answer")],
)
def test_a_wrong_or_broken_download_leaves_nothing(
    tmp_path: Path, headers: dict[str, str], body: bytes, message: str
) -> None:
    with serving(lambda *_: (200, headers, body)) as url, pytest.raises(CliError, match=message):
        file_download(LINK | {"url": url}, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_listed_with_sizes_and_digests_and_without_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".cache").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(CONTENT)
    (tmp_path / ".cache" / "b").write_bytes(b"b")
    (tmp_path / ".hidden").write_bytes(b"c")
    assert folder_files(tmp_path) == [{"path": "sub/a.png", "size": len(CONTENT), **LINK}]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="no files"):
        folder_files(tmp_path)


def test_a_failed_part_is_sent_again_alone_and_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PART_PAUSE_SECONDS", 0.0)
    (tmp_path / "a").write_bytes(CONTENT)
    answers = iter([(200, {"ETag": '"one"'}, b""), (503, {}, b""), (200, {"ETag": '"two"'}, b"")])
    requests, counted = list[str](), list[int]()

    def answer(path: str, _: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        requests.append(path)
        return next(answers)

    sizes = (3, len(CONTENT) - 3)
    with serving(answer) as url, httpx.Client() as http:
        parts = [{"number": n, "url": f"{url}/{n}", "size": size} for n, size in enumerate(sizes, start=1)]
        assert parts_put(http, {"parts": parts}, tmp_path / "a", counted.append) == ["one", "two"]
    assert requests == ["/1", "/2", "/2"]
    assert sum(counted) == len(CONTENT)


def test_a_refused_part_is_final(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    requests: list[str] = []
    with serving(lambda path, _: requests.append(path) or (403, {}, b"")) as url, httpx.Client() as http:  # type: ignore[func-returns-value]
        part = {"number": 1, "url": f"{url}/1", "size": len(CONTENT)}
        with pytest.raises(CliError):
            parts_put(http, {"parts": [part]}, tmp_path / "a", lambda _: None)
    assert requests == ["/1"]
