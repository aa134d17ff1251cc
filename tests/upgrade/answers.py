"""What today's API answers over the SQLite platform of 61dba2f, call by call, without times and new ids.

    python -m tests.upgrade.answers

writes data/answers.json anew, for a change of the API that is meant; its diff belongs to that commit.
"""

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.upgrade.old_platform import DATA, KEYS, OldPlatform, dump_text, old_platform

FILE = DATA / "answers.json"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+([^?\"\s]*)(\?[^\"\s]*)?")
TOKEN = re.compile(r"an[taw]_[\w-]{20,}")
WORKER = {"worker": "11111111-1111-4111-8111-111111111111", "boot_id": "22222222-2222-4222-8222-222222222222"}
FETCH = {"name": "brought", "repo": "lab/pictures", "secrets": ["lab"]}
DRAFT = {"name": "draft", "method": "image_lora", "dataset": "plain@1", "model": "tiny"}
PUBLIC, INTERNAL, ATTEMPT = "/api/v1/", "/internal/v1/", "/internal/v1/attempts/{attempt}/"


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    """Names in braces: a job of KEYS by its role, or what an earlier call saved."""
    body: Any = None
    below: str = PUBLIC
    save: tuple[tuple[str, str], ...] = ()
    """(name, dotted place in the answer)."""


def get(*paths: str) -> list[Call]:
    return [Call("GET", path) for path in paths]


READS = [
    *get("me", "projects", "projects/default", "projects/default/members", "users", "tokens", "secrets", "workers"),
    *get("audit?limit=5", "audit?kind=token_created", "usage", "samplings", "methods/nothing"),
    *get("datasets", "datasets/plain", "datasets/plain@1", "datasets/plain/preview", "datasets/sums/preview"),
    *get("datasets/plain/used-by", "datasets/nothing", "models", "models/tiny", "models/bert", "models/tiny/used-by"),
    *get("templates", "templates/quick", "templates/quick@1", "templates/quick/versions", "templates/quick/export"),
    *get("jobs", "jobs?state=queued,paused", "jobs?label=night", "jobs?adaptor=plain@1", "jobs?dataset=sums"),
    *get("jobs/{succeeded_image}", "jobs/{succeeded_text}", "jobs/{failed}", "jobs/{cancelled}", "jobs/{paused}"),
    *get("jobs/{queued}", "jobs/{queued_fetch}", "jobs/{claimed}", "jobs/{running}", "jobs/{sampled}", "jobs/{rerun}"),
    *get("jobs/{succeeded_image}/metrics?name=loss", "jobs/{succeeded_image}/events", "jobs/{succeeded_image}/log"),
    *get("jobs/{succeeded_image}/artifacts", "jobs/{sampled}/samples", "jobs/{succeeded_text}/manifest"),
    *get("jobs/{paused}/spec", "jobs/{paused}/events?after=3", "jobs/nothing-of-the-kind"),
    *get("adaptors", "adaptors/plain", "adaptors/plain@1/lineage", "adaptors/plain@1/used-by", "adaptors?tag=good"),
    *get("adaptors/sums@1", "adaptors/imported@1", "adaptors?params.seed=7&metrics.loss__lt=9", "adaptors?nothing=1"),
]
REFUSALS = [
    Call("POST", "jobs", {}),
    Call("POST", "jobs", {"name": "x", "method": "nothing"}),
    Call("POST", "jobs", {**DRAFT, "params": {"adaptor_name": "x", "lora_rank": 4}}),
    Call("POST", "jobs", {**DRAFT, "dataset": "sums", "params": {"adaptor_name": "x"}}),
    Call("POST", "jobs/{succeeded_image}/resume"),
    Call("POST", "jobs/{succeeded_image}/cancel"),
    Call("DELETE", "jobs/{succeeded_image}"),
    Call("DELETE", "datasets/plain"),
    Call("DELETE", "models/tiny@1"),
    Call("PUT", "templates/quick", {"name": "quick", "method": "image_lora", "params": {"seed": "seven"}}),
    Call("PUT", "projects/default/members/admin", {"role": "reader"}),
]
WRITES = [
    Call("POST", "templates", {**DRAFT, "params": {"adaptor_name": "d", "resolution": 64}}),
    Call("PUT", "templates/draft", {**DRAFT, "params": {"adaptor_name": "e", "resolution": 64}}),
    Call("POST", "templates/draft@1/validate", {}),
    Call("POST", "templates/draft/restore", {"version": 1}),
    Call("POST", "templates/draft/clone", {"name": "draft-2"}),
    Call("DELETE", "templates/draft"),
    Call("DELETE", "templates/draft-2"),
    Call("PUT", "secrets/new", {"kind": "generic", "value": "a-value-of-today"}),
    Call("DELETE", "secrets/new"),
    Call("POST", "tokens", {"name": "of today", "scopes": ["read"], "project": "default"}),
    Call("POST", "jobs", {"template": "quick", "pool": "today", "priority": 2}, save=(("new", "id"),)),
    Call("PATCH", "jobs/{new}", {"labels": ["today"], "notes": "A note."}),
    Call("POST", "jobs/{new}/cancel"),
    Call("DELETE", "jobs/{new}"),
    Call("POST", "jobs/{failed}/rerun", {"pool": "today", "params": FETCH}, save=(("new", "id"),)),
]
HOST = {**WORKER, "host": "today", "pools": ["today"], "slots": 1, "accelerators": [], "labels": {}, "gone": []}
CLAIM = {**WORKER, "claim_id": "33333333-3333-4333-8333-333333333333", "pools": ["today"], "free_accelerators": []}
STARTED = {"seq": 1, "time": 0.0, "data": {"kind": "started", "total": 1}}
FINISH = {"outcome": "failed", "exit_code": 1, "reason": None, "manifest": None, "files": [], "last_step": None}
WORK = [
    Call("POST", "workers/hello", HOST, below=INTERNAL),
    Call(
        "POST",
        "claims",
        {**CLAIM, "labels": {}},
        below=INTERNAL,
        save=(("attempt", "attempt.id"), ("attempt_token", "attempt.token"), ("fence", "attempt.fence")),
    ),
    Call("POST", "heartbeat", {"fence": 1, "progress_seq": 0}, below=ATTEMPT),
    Call("POST", "events", {"first_seq": 1, "events": [STARTED]}, below=ATTEMPT),
    Call("POST", "finish", FINISH, below=ATTEMPT),
    Call("POST", "workers/goodbye", WORKER, below=INTERNAL),
    *get("jobs/{new}", "jobs/{new}/events"),
    Call("DELETE", "jobs/{new}"),
]


def answers(platform: OldPlatform) -> dict[str, Any]:
    """{"1 GET me": {status, body}, ...} of all calls in order."""
    saved: dict[str, Any] = dict(platform.jobs)
    old_ids = set(re.findall(r"\b[0-9a-f]{32}\b", dump_text(platform.name)))
    result: dict[str, Any] = {}
    with httpx.Client(base_url=platform.url, timeout=60) as http:
        for number, call in enumerate((*READS, *REFUSALS, *WRITES, *WORK), 1):
            path = (call.below + call.path + all_fields(call)).format(**saved)
            response = http.request(call.method, path, json=call.body, headers=authorization(call, saved))
            for name, place in call.save:
                saved[name] = value_at(response.json(), place)
            result[f"{number} {call.method} {call.path}"] = answer(response, old_ids)
    return result


def all_fields(call: Call) -> str:
    """Lists of jobs have left the fields of the spec out, unless they are named, since the answers were recorded."""
    if call.method != "GET" or call.path.partition("?")[0] != "jobs":
        return ""
    return f"{'&' if '?' in call.path else '?'}fields=params,inputs,resources"


def authorization(call: Call, saved: dict[str, Any]) -> dict[str, str]:
    keys = KEYS["sqlite"]
    token = {PUBLIC: keys["token"], INTERNAL: keys["worker_token"], ATTEMPT: saved.get("attempt_token", "")}[call.below]
    return {"Authorization": f"Bearer {token}"}


def answer(response: httpx.Response, old_ids: set[str]) -> dict[str, Any]:
    def id_masked(match: re.Match[str]) -> str:
        return match[0] if match[0].replace("-", "") in old_ids else "<id>"

    text = ADDRESS.sub(lambda match: f"<address>{match[1]}{'?<query>' if match[2] else ''}", response.text)
    text = TOKEN.sub("<token>", TIME.sub("<time>", UUID.sub(id_masked, text)))
    is_json = response.headers.get("content-type", "").startswith("application/json")
    return {"status": response.status_code, "body": json.loads(text) if is_json and text else text}


def value_at(value: Any, place: str) -> Any:
    for key in place.split("."):
        value = value[key]
    return value


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, old_platform(Path(folder), "sqlite") as platform:
        platform.migrate()
        with platform.running():
            result = answers(platform)
    FILE.write_text(json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    print(f"{len(result)} answers in {FILE}, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
