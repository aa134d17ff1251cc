"""The panel in a real browser: its styles and scripts work under our Content-Security-Policy, in light and in dark.

ANNEAL_SCREENSHOTS=<folder> keeps what was seen.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from rest_framework.test import APIClient

from api.jobs.models import Job
from tests.api.conftest import host_make
from tests.api.host import Host, step_event
from tests.api.jobs.test_claim import submit
from tests.api.live import serving
from tests.api.world import World

sync_api: Any = pytest.importorskip("playwright.sync_api", reason="the panel in a browser: playwright is not installed")
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PASSWORD = "a long password for tests"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"the panel in a browser: {CHROMIUM} is not there"),
]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, world: World, user: APIClient, host: Host) -> Iterator[Any]:
    """A browser that is logged in by hand, on a platform with jobs in several states."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # Playwright keeps an event loop in this thread
    jobs_make(world, user, host)
    get_user_model().objects.create_superuser("root", password=PASSWORD)
    with serving() as address, sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page(base_url=address, viewport={"width": 1500, "height": 950})
        page.goto("/admin/")
        page.fill("[name=username]", "root")
        page.fill("[name=password]", PASSWORD)
        page.click("button[type=submit]")
        page.wait_for_selector("text=Queue by pool")
        yield page
        browser.close()


def jobs_make(world: World, user: APIClient, host: Host) -> None:
    submit(user, world, name="portrait lora")
    running = host.claim()
    running.start()
    running.events(step_event(2, 4))
    running.checkpoint(4)
    for name, outcome in (("style lora", "succeeded"), ("broken dataset", "failed")):
        submit(user, world, name=name)
        host_make(accelerators=2).claim().finish(outcome)
    cancelled = submit(user, world, name="a mistake")
    user.post(f"/api/v1/jobs/{cancelled}/cancel")
    submit(user, world, name="waits for its turn")


def test_every_page_is_drawn_without_a_complaint_of_the_browser(page: Any) -> None:
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    job = Job.objects.get(name="portrait lora")
    shown = {
        "dashboard": "/admin/",
        "jobs": "/admin/jobs/job/",
        "job": f"/admin/jobs/job/{job.pk}/change/",
        "workers": "/admin/jobs/worker/",
        "users": "/admin/auth/user/",
        "confirm": f"/admin/jobs/job/{job.pk}/cancel/",
    }
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for name, path in shown.items():
            assert page.goto(path).status == 200
            page.wait_for_load_state("networkidle")
            keep(page, f"panel-{name}-{scheme}")
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (dark != page.evaluate("'rgb(255, 255, 255)'")) or scheme == "light"
    assert complaints == []


def test_a_job_is_cancelled_by_clicks(page: Any) -> None:
    job = Job.objects.get(name="waits for its turn")
    page.goto(f"/admin/jobs/job/{job.pk}/change/")
    page.click("a:has-text('Cancel')")
    page.click("button:has-text('Cancel')")
    page.wait_for_selector("text=waits for its turn is cancelled.")
    job.refresh_from_db()
    assert job.state == "cancelled"


FOLLOW = """address => new Promise((done, failed) => {
    const seen = [], source = new EventSource(address);
    source.addEventListener("state", event => {
        seen.push(JSON.parse(event.data).data.state);
        if (seen.at(-1) === "cancelled") { source.close(); done(seen); }
    });
    source.onerror = () => failed(new Error("the stream broke after " + seen));
})"""


def test_an_eventsource_follows_a_job_with_a_ticket(page: Any, user: APIClient) -> None:
    job = Job.objects.get(name="a mistake").pk
    ticket = user.post(f"/api/v1/jobs/{job}/stream-ticket").json()["ticket"]
    assert page.evaluate(FOLLOW, f"/api/v1/jobs/{job}/stream?ticket={ticket}") == ["queued", "cancelled"]


def keep(page: Any, name: str) -> None:
    if folder := os.environ.get("ANNEAL_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=name.startswith("panel-job-"))
