"""What the pages in docs/ tell a reader to type works, word for word."""

import shutil
from pathlib import Path

import pytest

from cli.client import connect
from cli.downloads import file_download
from tests.e2e.conftest import STOP_SECONDS, Embedded, started
from tests.e2e.pages import ROOT, blocks, page_run


@pytest.mark.slow
def test_the_page_of_the_python_client_runs(embedded: Embedded, tmp_path: Path) -> None:
    message = page_run("client.md", "python", embedded, tmp_path)
    assert "client-style@1" in message


@pytest.mark.slow
def test_the_quick_start_runs(embedded: Embedded, tmp_path: Path) -> None:
    page_run("quickstart.md", "sh", embedded, tmp_path)
    assert (tmp_path / "compare.png").exists()
    assert (tmp_path / "first" / "manifest.json").exists()


@pytest.mark.slow
def test_the_page_of_sampling_runs(embedded: Embedded, tmp_path: Path) -> None:
    page_run("sampling.md", "sh", embedded, tmp_path)
    assert len(list(tmp_path.glob("two-*.png"))) == 2 + 2 * 2, "two images, each shown twice on the way"


@pytest.mark.slow
def test_the_page_of_adaptors_runs(embedded: Embedded, tmp_path: Path) -> None:
    page_run("adaptors.md", "sh", embedded, tmp_path)
    assert (tmp_path / "fused.png").exists()


def test_the_quick_start_starts_only_what_is_tested_elsewhere() -> None:
    assert blocks("quickstart.md", "console") == ["make demo\n", "make up\n"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_guide_to_the_api_runs_with_curl(embedded: Embedded, tmp_path: Path) -> None:
    embedded.anneal("model", "add", "shapes-base", str(ROOT / "examples" / "shapes" / "base"))
    page_run("api.md", "sh", embedded, tmp_path)


@pytest.mark.slow
def test_the_guide_to_the_api_runs_with_python(embedded: Embedded, tmp_path: Path) -> None:
    page_run("api.md", "python", embedded, tmp_path)


@pytest.mark.slow
def test_a_backup_as_the_page_makes_it_comes_up_as_a_platform(embedded: Embedded, tmp_path: Path) -> None:
    embedded.anneal("dataset", "add", "saved", str(ROOT / "examples" / "shapes" / "style"))
    embedded.anneal("model", "add", "saved-base", str(ROOT / "examples" / "shapes" / "base"))
    inputs = ("--dataset", "saved", "--model", "saved-base", "--pool", "nowhere", "--set", "adaptor_name=saved")
    job = embedded.json("job", "submit", "--method", "image_lora", "--name", "waits", *inputs)["id"]
    page_run("operating.md", "sh", embedded, tmp_path)
    up, ready = started(tmp_path / "backup")
    try:
        with connect(ready["url"], embedded.login.token) as anneal:
            assert anneal.http.get(f"jobs/{job}")["state"] == "paused", "the copy starts nothing that the original has"
            assert not (tmp_path / "backup" / "is_a_copy").exists()
            saved = anneal.http.get("datasets/saved")
            for file in saved["files"]:
                file_download(file, tmp_path / file["path"])
            assert saved["num_files"] == len(saved["files"]) == 25
    finally:
        up.terminate()
        up.wait(STOP_SECONDS)


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "examples" / "sums" / "base").is_dir(), reason="the example's base model is not there")
def test_the_page_of_text_diffusion_runs(embedded: Embedded, tmp_path: Path) -> None:
    page_run("text.md", "sh", embedded, tmp_path)
    (text,) = sorted((tmp_path / "texts").glob("*.json"))
    assert '"step": -1' in text.read_text(encoding="utf-8")
