"""Records what a worker host and the API say to each other, for `test_recorded_worker.py` to replay later.

    python -m tests.api.record_worker tests/api/recordings/worker_COMMIT.json

Run it at the commit whose worker must still be served: it starts the API and a real `python -m worker` of this
checkout on a database of its own, queues two jobs of the stub trainer, asks for a checkpoint, a pause and a resume,
drains the host, and writes every request of worker and user with its answer. The tokens in the file belong to a
database that is gone.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import uvicorn
from django.conf import settings
from django.core.management import call_command

from tests.api import conftest as _django_starts_there
from tests.ports import free_port

# isort: split
from django.contrib.auth import get_user_model

from api.accounts.models import Membership, Project
from api.accounts.tokens import user_token_create, worker_token_create
from api.asgi import application
from api.storage import storage
from tests.api.world import inputs_store, world_make

ENVIRON = {"heartbeat_seconds": 0.5, "poll_seconds": 0.5}
"""Settings of the API that recording and replay share."""
HEADERS = ("authorization", "content-type", "upload-offset", "range")
Exchange = dict[str, Any]


def recorded(app: Any, exchanges: list[Exchange]) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """`app`, which appends each HTTP request with its answer once the answer is complete."""

    async def recording(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        request, answer, status = b"", b"", 0
        query = scope["query_string"].decode()

        async def receive_noted() -> Any:
            nonlocal request
            message = await receive()
            request += message.get("body", b"")
            return message

        async def send_noted(message: Any) -> None:
            nonlocal answer, status
            status = message.get("status", status)
            answer += message.get("body", b"")
            if message["type"] == "http.response.body" and not message.get("more_body"):
                headers = {name.decode(): value.decode() for name, value in scope["headers"]}
                exchanges.append(
                    {
                        "method": scope["method"],
                        "path": scope["path"] + (f"?{query}" if query else ""),
                        "headers": {name: headers[name] for name in HEADERS if name in headers},
                        "request": _body(request),
                        "status": status,
                        "answer": _body(answer),
                    }
                )
            await send(message)

        await app(scope, receive_noted, send_noted)

    return recording


def _body(data: bytes) -> Any:
    """JSON as it is, anything else as {"base64": ...}; None where there is none."""
    if not data:
        return None
    try:
        return {"json": json.loads(data)}
    except ValueError:
        return {"base64": base64.b64encode(data).decode()}


def main(target: Path) -> None:
    exchanges: list[Exchange] = []
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings.ANNEAL = settings.ANNEAL.model_copy(update={**ENVIRON, "public_url": url})
    storage.cache_clear()  # its links lead to public_url
    call_command("migrate", verbosity=0)
    project = Project.objects.create(name="default")
    request = world_make(project).request
    user = get_user_model().objects.create(username="user")
    Membership.objects.create(project=project, user=user, role="admin")
    tokens = {
        "worker": worker_token_create(name="recorded")[0],
        "user": user_token_create(user=user, project=project, name="recorded", scopes=("read", "write", "admin"))[0],
    }
    server = uvicorn.Server(
        uvicorn.Config(recorded(application, exchanges), port=port, log_level="error", lifespan="off")
    )
    threading.Thread(target=server.run, daemon=True).start()
    with TemporaryDirectory() as folder:
        inputs_store(Path(folder))
        client = httpx.Client(base_url=f"{url}/api/v1/", headers={"Authorization": f"Bearer {tokens['user']}"})
        _until(lambda: server.started, "the API")
        _drive(client, request, url, tokens["worker"], Path(folder))
    server.should_exit = True
    content = {"made_by": "tests/api/record_worker.py", "commit": _commit(), "tokens": tokens, "environ": ENVIRON}
    keep = [exchange for exchange in exchanges if not (exchange["method"] == "GET" and "/api/v1/" in exchange["path"])]
    lines = ",\n".join(json.dumps(exchange) for exchange in keep)
    target.write_text(f'{json.dumps(content)[:-1]}, "exchanges": [\n{lines}\n]}}\n')
    print(f"{len(keep)} exchanges in {target}")


def _drive(client: httpx.Client, request: dict[str, Any], url: str, token: str, folder: Path) -> None:
    """The story: a job with save_now, then a job that is paused and resumed, then the host drains."""
    for name in ("plans", "release"):
        (folder / name).mkdir()
    params = {"adaptor_name": "shapes", "max_train_steps": 6, "checkpoint_every_steps": 2}
    host = _host(url, token, folder)
    for job, ask in (("saved", ("control", {"command": "save_now"})), ("paused", ("pause", None))):
        (folder / "plans" / f"{job}.json").write_text(json.dumps({"hold_at": 4, "mode": "secrets"}))
        created = client.post("jobs", json={**request, "name": job, "params": {**params, "adaptor_name": job}}).json()
        _until(lambda job=job: f'"what": "hold", "job": "{job}"' in _stamps(folder), f"{job} holds")
        address = f"jobs/{created['id']}"
        assert client.post(f"{address}/{ask[0]}", json=ask[1]).status_code == 200
        if job == "saved":
            _until(lambda at=address: '"control"' in client.get(f"{at}/events").text, "save_now is obeyed")
        else:
            _until(lambda at=address: client.get(at).json()["state"] == "paused", "the job is paused")
            assert client.post(f"{address}/resume").status_code == 200
        (folder / "release" / job).touch()
        _until(lambda at=address: client.get(at).json()["state"] == "succeeded", f"{job} succeeds")
    host.send_signal(signal.SIGTERM)
    assert host.wait(30) == 0


def _host(url: str, token: str, folder: Path) -> "subprocess.Popen[bytes]":
    environ = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "ANNEAL_API_URL": url,
        "ANNEAL_WORKER_TOKEN": token,
        "ANNEAL_STATE_DIR": str(folder / "state"),
        "ANNEAL_ACCELERATORS": "none",
        "ANNEAL_TRAINER_COMMAND": f"{sys.executable} -m tests.faults.stub",
        "ANNEAL_TRAINER_ENVIRONMENT": "STUB_FOLDER",
        "STUB_FOLDER": str(folder),
    }
    with (folder / "worker.log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-m", "worker"], env=environ, stdout=log, stderr=log)


def _stamps(folder: Path) -> str:
    path = folder / "stamps"
    return path.read_text() if path.exists() else ""


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"not within 60 s: {what}"
        time.sleep(0.05)


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    assert _django_starts_there
    main(Path(sys.argv[1]))
