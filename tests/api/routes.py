"""Who may call what: the one table, which `test_authorization.py` holds against every address that there is.

A new address is one line: its pattern, and for each method the least that its caller must be.
"""

from collections.abc import Callable
from typing import Any

from tests.api.scene import Scene

OPEN = "open"
"""Anybody, also without a token."""
READ = "read"
WRITE = "write"
ADMIN = "admin"
"""Members of the project with that role or more. Where the address names a record, a stranger gets 404."""
HIDDEN = "admin, and not there for others"
SUPERUSER = "superuser"
"""No member as such."""
WORKER = "worker"
ATTEMPT = "attempt"
"""The token of that very attempt."""

V1 = "api/v1/"
RECORDS = {
    "": {"GET": READ, "POST": WRITE},
    "/<str:ref>": {"GET": READ, "DELETE": WRITE},
    "/<str:ref>/used-by": {"GET": READ},
    "/<str:name>/uploads": {"POST": WRITE},
    "/<str:name>/uploads/<uuid:upload_id>/complete": {"POST": WRITE},
    "/<str:name>/versions": {"POST": WRITE},
}
"""Datasets and models are served by the same views."""
ROUTES: dict[str, dict[str, str]] = {
    "": {"GET": OPEN},
    "healthz": {"GET": OPEN},
    "readyz": {"GET": OPEN},
    "metrics": {"GET": OPEN},
    "api/docs": {"GET": OPEN},
    "api/schema": {"GET": OPEN},
    # accounts
    f"{V1}auth/login": {"POST": OPEN},
    f"{V1}auth/logout": {"POST": READ},
    f"{V1}me": {"GET": READ},
    f"{V1}me/password": {"POST": READ},
    f"{V1}me/invitations": {"GET": READ, "POST": READ},
    f"{V1}projects": {"GET": READ, "POST": SUPERUSER},
    f"{V1}projects/<str:name>": {"GET": READ},
    f"{V1}projects/<str:name>/members": {"GET": READ},
    f"{V1}projects/<str:name>/members/<str:username>": {"PUT": ADMIN, "DELETE": ADMIN},
    f"{V1}users": {"GET": SUPERUSER, "POST": ADMIN},
    **{f"{V1}users/<str:username>/{what}": {"POST": SUPERUSER} for what in ("disable", "enable", "reset")},
    f"{V1}tokens": {"GET": READ, "POST": READ},
    f"{V1}tokens/workers": {"POST": SUPERUSER},
    f"{V1}tokens/<uuid:token_id>": {"GET": HIDDEN, "DELETE": HIDDEN},
    f"{V1}audit": {"GET": ADMIN},
    f"{V1}secrets": {"GET": ADMIN},
    f"{V1}secrets/<str:name>": {"GET": ADMIN, "PUT": ADMIN, "DELETE": ADMIN},
    # catalog
    **{f"{V1}{kind}{rest}": methods for kind in ("datasets", "models") for rest, methods in RECORDS.items()},
    f"{V1}datasets/<str:ref>/preview": {"GET": READ},
    f"{V1}datasets/<str:ref>/captions": {"POST": WRITE},
    f"{V1}datasets/<str:name>/samples": {"POST": WRITE},
    f"{V1}templates": {"GET": READ, "POST": WRITE},
    f"{V1}templates/validate": {"POST": WRITE},
    f"{V1}templates/import": {"POST": WRITE},
    f"{V1}templates/<str:name>": {"GET": READ, "PUT": WRITE, "DELETE": WRITE},
    f"{V1}templates/<str:name>/versions": {"GET": READ},
    f"{V1}templates/<str:name>/restore": {"POST": WRITE},
    f"{V1}templates/<str:ref>/clone": {"POST": WRITE},
    f"{V1}templates/<str:ref>/validate": {"POST": WRITE},
    f"{V1}templates/<str:ref>/export": {"GET": READ},
    f"{V1}templates/<str:ref>/preview": {"POST": WRITE},
    f"{V1}adaptors": {"GET": READ},
    f"{V1}adaptors/<str:ref>": {"GET": READ, "PATCH": WRITE, "DELETE": WRITE},
    f"{V1}adaptors/<str:ref>/lineage": {"GET": READ},
    f"{V1}adaptors/<str:ref>/used-by": {"GET": READ},
    f"{V1}adaptors/<str:ref>/zip": {"GET": READ},
    f"{V1}samplings": {"GET": READ},
    f"{V1}usage": {"GET": READ},
    f"{V1}methods": {"GET": READ},
    f"{V1}methods/<str:method>": {"GET": READ},
    # jobs
    f"{V1}jobs": {"GET": READ, "POST": WRITE},
    f"{V1}jobs/<str:ref>": {"GET": READ, "PATCH": WRITE, "DELETE": WRITE},
    f"{V1}jobs/<str:ref>/rerun": {"POST": WRITE},
    f"{V1}jobs/<str:ref>/stream-ticket": {"POST": READ},
    f"{V1}jobs/<str:ref>/cancel": {"POST": WRITE},
    f"{V1}jobs/<str:ref>/pause": {"POST": WRITE},
    f"{V1}jobs/<str:ref>/resume": {"POST": WRITE},
    f"{V1}jobs/<str:ref>/control": {"POST": WRITE},
    f"{V1}jobs/<str:ref>/metrics": {"GET": READ},
    f"{V1}jobs/<str:ref>/events": {"GET": READ},
    f"{V1}jobs/<str:ref>/log": {"GET": READ},
    f"{V1}jobs/<str:ref>/stream": {"GET": READ},
    f"{V1}jobs/<str:ref>/samples": {"GET": READ},
    f"{V1}jobs/<str:ref>/artifacts": {"GET": READ},
    f"{V1}jobs/<str:ref>/manifest": {"GET": READ},
    f"{V1}jobs/<str:ref>/spec": {"GET": READ},
    f"{V1}workers": {"GET": READ},
    f"{V1}workers/<uuid:worker_id>/release": {"POST": ADMIN},
    f"{V1}workers/<uuid:worker_id>/drain": {"POST": ADMIN, "DELETE": ADMIN},
    # workers and agents
    **{f"internal/v1/workers/{what}": {"POST": WORKER} for what in ("hello", "heartbeat", "goodbye")},
    "internal/v1/claims": {"POST": WORKER},
    **{
        f"internal/v1/attempts/<uuid:attempt_id>/{what}": {"POST": ATTEMPT}
        for what in ("heartbeat", "events", "uploads", "uploads/complete", "artifacts", "finish", "links")
    },
    "internal/v1/attempts/<uuid:attempt_id>/log": {"PATCH": ATTEMPT},
}

SHARED = (f"{V1}methods/", f"{V1}workers/", f"{V1}users/")
"""Records of the installation: a stranger sees them too."""
MADE_BY_PUT = (f"{V1}secrets/<str:name>",)
"""A stranger's PUT makes a record of that name at home."""

Body = Callable[[Scene], dict[str, Any]]
BODIES: dict[tuple[str, str], Body] = {
    ("POST", f"{V1}projects"): lambda _: {"name": "new"},
    ("PUT", f"{V1}projects/<str:name>/members/<str:username>"): lambda _: {"role": "writer"},
    ("POST", f"{V1}users"): lambda _: {"username": "anna"},
    ("POST", f"{V1}tokens/workers"): lambda _: {"name": "hosts"},
    ("POST", f"{V1}datasets"): lambda _: {"name": "new"},
    ("POST", f"{V1}models"): lambda _: {"name": "new"},
    ("POST", f"{V1}datasets/<str:name>/uploads"): lambda _: {
        "files": [{"path": "a.txt", "size": 1, "sha256": "0" * 64}]
    },
    ("POST", f"{V1}datasets/<str:name>/versions"): lambda scene: {"upload": scene.seconds["datasets/upload_id"]},
    ("POST", f"{V1}datasets/<str:ref>/captions"): lambda _: {"captions": {"a.png": "a cat"}},
    ("POST", f"{V1}datasets/<str:name>/samples"): lambda scene: {"picks": [{"job": scene.names["jobs"]}]},
    ("PUT", f"{V1}templates/<str:name>"): lambda scene: {"method": "image_lora", "params": scene.request["params"]},
    ("POST", f"{V1}templates"): lambda _: {"name": "new", "method": "image_lora", "params": {"adaptor_name": "a"}},
    ("POST", f"{V1}templates/<str:ref>/clone"): lambda _: {"name": "copy"},
    ("PUT", f"{V1}secrets/<str:name>"): lambda _: {"kind": "generic", "value": "hush"},
    ("PATCH", f"{V1}jobs/<str:ref>"): lambda _: {"notes": "mine"},
    ("POST", f"{V1}jobs"): lambda scene: scene.request,
    ("POST", f"{V1}jobs/<str:ref>/control"): lambda _: {"command": "save_now"},
    ("POST", "internal/v1/workers/heartbeat"): lambda scene: {**scene.host.who(), "free_slots": 1},
    ("POST", "internal/v1/workers/goodbye"): lambda scene: scene.host.who(),
    ("POST", "internal/v1/attempts/<uuid:attempt_id>/heartbeat"): lambda scene: {
        "fence": scene.agent.fence,
        "progress_seq": 1,
    },
    ("POST", "internal/v1/attempts/<uuid:attempt_id>/finish"): lambda scene: scene.agent.finish_body("failed"),
}
"""What is sent; without an entry an empty object, which one who may call is told is not enough (400)."""
