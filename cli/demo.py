"""`anneal demo`: the whole flow, with nothing but `anneal up` and the REST client."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.markup import escape

from cli.commands.sample import images_download
from cli.commands.templates import template_put
from cli.config import Login, login_save, login_saved
from cli.downloads import adaptor_write, job_log, samples_of
from cli.errors import CliError, Exit
from cli.http import Client, Record
from cli.output import err, out, print_json
from cli.platform.children import log_tail, tie_to_parent
from cli.requests import yaml_load
from cli.transfers import folder_upload
from cli.watch import adaptor_ref, ending_sentence, job_watch, outcome

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "shapes"
PROMPT = "a large red circle at the top left"
NUM_IMAGES = 3
LOG_LINES = 20
STOP_SECONDS = 60


def run_demo(folder: Path, *, as_json: bool) -> None:
    """Writes `folder`/comparison.png. Raises CliError that says which part failed, with its log's end."""
    if not (EXAMPLE / "template.yaml").exists():
        raise CliError(f"the example is not at {EXAMPLE}", "`anneal demo` runs from a checkout of the project.")
    folder.mkdir(parents=True, exist_ok=True)
    with platform_up(folder) as login, Client(login) as client:
        job = train(client, as_json=as_json)
        sheet = compare(client, job, folder, as_json=as_json)
        adaptor = client.get(f"adaptors/{adaptor_ref(job)}")
        adaptor_write(adaptor, folder / "adaptor")
    paths = {
        "comparison": sheet,
        "adaptor": folder / "adaptor",
        "platform": folder / "platform",
        "logs": folder / "platform/logs",
    }
    if as_json:
        print_json({name: str(path.resolve()) for name, path in paths.items()})
    else:
        out.print(
            f"\n[bold]{adaptor_ref(job)}[/bold] is trained: base | adaptor | adaptor + {adaptor['trigger_word']!r}"
        )
        out.print("\n".join(f"{name:<12}{escape(str(path))}" for name, path in paths.items()), soft_wrap=True)


@contextmanager
def platform_up(folder: Path) -> Iterator[Login]:
    """`anneal up` as a process of its own, stopped at the end whatever happens."""
    say(f"starting the platform in {folder / 'platform'}")
    log = folder / "up.log"
    command = [sys.executable, "-m", "cli", "up", "--dir", str(folder / "platform"), "--json"]
    with log.open("wb") as stderr:
        up = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
            preexec_fn=tie_to_parent(signal.SIGTERM),
        )
    try:
        assert up.stdout is not None
        line = up.stdout.readline()
        if not line:
            raise start_error(log)
        yield demo_login(json.loads(line), folder / "login.json")
    finally:
        say("stopping the platform")
        stop(up)
    if up.returncode:
        raise CliError(f"the platform stopped with exit code {up.returncode}; the end of {log}:", log_tail(log))


def start_error(log: Path) -> CliError:
    """What `anneal up --json` said last."""
    tail = log_tail(log)
    try:
        message = json.loads(tail.splitlines()[-1])
        return CliError(f"the platform did not start: {message['message']}", message["hint"])
    except (IndexError, ValueError, KeyError, TypeError):
        return CliError(f"the platform did not start; the end of {log}:", tail)


def stop(up: "subprocess.Popen[str]") -> None:
    """Drains it; a second SIGTERM skips the wait for checkpoints."""
    for _ in range(2):
        up.terminate()
        try:
            up.wait(STOP_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue
    up.kill()
    up.wait()


def demo_login(ready: Record, path: Path) -> Login:
    """The token of the first start, stored for the next demo in the same folder."""
    token = ready.get("token") or (saved.token if (saved := login_saved(path)) else "")
    if not token:
        raise CliError(f"{path} with the demo's token is gone", f"Remove {path.parent} and run the demo again.")
    login = Login(url=ready["url"], token=token)
    login_save(login, path)
    return login


def train(client: Client, *, as_json: bool) -> Record:
    template = yaml_load(EXAMPLE / "template.yaml")
    say("importing the example base model and dataset")
    folder_upload(client, "models", template["model"], EXAMPLE / "base")
    folder_upload(client, "datasets", template["dataset"], EXAMPLE / "style")
    template_put(client, template)
    return followed(client, client.post("jobs", {"template": template["name"]}), as_json=as_json)


def compare(client: Client, job: Record, folder: Path, *, as_json: bool) -> Path:
    say("sampling: base | adaptor | adaptor + trigger, with the same seeds")
    template = yaml_load(EXAMPLE / "template.yaml")
    guidance = template["params"]["eval_guidance_scale"]
    params = {"prompt": PROMPT, "compare": True, "num_images": NUM_IMAGES, "guidance_scale": guidance}
    body = {"method": "sample_image", "params": params, "model": template["model"], "adaptors": [adaptor_ref(job)]}
    sampling = followed(client, client.post("jobs", {"name": "comparison", **body}), as_json=as_json)
    (sheet,) = images_download(samples_of(client, sampling["id"]), folder / "comparison.png", compare=True)
    return sheet


def followed(client: Client, job: Record, *, as_json: bool) -> Record:
    """The job once it succeeded. Raises CliError with the end of its log where it did not."""
    ended = job_watch(client, job, quiet=as_json)
    if outcome(ended) is not Exit.DONE:
        tail = "\n".join(job_log(client, ended["id"]).splitlines()[-LOG_LINES:])
        raise CliError(ending_sentence(ended), f"The end of its log:\n{tail}", exit_code=outcome(ended))
    return ended


def say(line: str) -> None:
    err.print(escape(line), style="dim", soft_wrap=True)
