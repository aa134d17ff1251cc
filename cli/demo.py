"""`anneal demo`: the whole flow for images or, with `--text`, for text, with `anneal up` and the REST client alone."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.markup import escape

from cli.commands.generate import text_print, texts_read
from cli.commands.inspections import report_read
from cli.commands.sample import images_download
from cli.commands.templates import template_put
from cli.config import Login, login_save, login_saved
from cli.downloads import adaptor_write, job_log, samples_of
from cli.errors import CliError, Exit
from cli.http import Client, Record
from cli.output import err, out, print_json, print_table
from cli.platform.children import log_tail, tie_to_parent
from cli.requests import yaml_load
from cli.uploads import folder_upload
from cli.watch import adaptor_ref, ending_sentence, job_watch, outcome

SHAPES = Path(__file__).resolve().parent.parent / "examples" / "shapes"
PROMPT = "a large red circle at the top left"
NUM_IMAGES = 3
LOG_LINES = 20
STOP_SECONDS = 60


def run_demo(folder: Path, *, as_json: bool) -> None:
    """Writes `folder`/comparison.png. Raises CliError that says which part failed, with its log's end."""
    if not (SHAPES / "template.yaml").exists():
        raise CliError(f"the example is not at {SHAPES}", "`anneal demo` runs from a checkout of the project.")
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
    template = yaml_load(SHAPES / "template.yaml")
    say("importing the example base model and dataset")
    folder_upload(client, "models", template["model"], SHAPES / "base")
    folder_upload(client, "datasets", template["dataset"], SHAPES / "style")
    template_put(client, template)
    return followed(client, client.post("jobs", {"template": template["name"]}), as_json=as_json)


def compare(client: Client, job: Record, folder: Path, *, as_json: bool) -> Path:
    say("sampling: base | adaptor | adaptor + trigger, with the same seeds")
    template = yaml_load(SHAPES / "template.yaml")
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


SUMS = Path(__file__).resolve().parent.parent / "examples" / "sums"
OWN, NEW = "sums-unseen", "sums-polite-unseen"
"""Datasets of the same questions: answered as the base does, and as the adaptor shall."""
QUESTION = "sixty eight plus fifty seven"
DECODING = {"max_new_tokens": 8, "block_size": 8, "batch_size": 64}
DATASETS = {
    "sums-polite": SUMS / "polite",
    OWN: SUMS / "unseen",
    NEW: SUMS / "polite_unseen",
}


def run_text_demo(folder: Path, *, as_json: bool) -> None:
    """Prints exact match before and after, and one denoising. Raises CliError that says which part failed."""
    if not (SUMS / "template.yaml").exists():
        raise CliError(f"the example is not at {SUMS}", "`anneal demo` runs from a checkout of the project.")
    folder.mkdir(parents=True, exist_ok=True)
    with platform_up(folder) as login, Client(login) as client:
        template = yaml_load(SUMS / "template.yaml")
        imported(client, template)
        before = [measured(client, template, dataset, "", as_json=as_json) for dataset in (OWN, NEW)]
        say("training the adaptor")
        ref = adaptor_ref(followed(client, client.post("jobs", {"template": template["name"]}), as_json=as_json))
        after = measured(client, template, NEW, ref, as_json=as_json)
        text = denoised(client, template, ref, folder, as_json=as_json)
        adaptor_write(client.get(f"adaptors/{ref}"), folder / "adaptor")
    if as_json:
        print_json({"measured": [*before, after], "denoised": text, "adaptor": str((folder / "adaptor").resolve())})
        return
    out.print()
    print_table([*before, after], {"": "what", "exact match": "exact_match", "right sums": "right_sums"})
    out.print(f"\nOne answer of [bold]{escape(ref)}[/bold], step by step:")
    text_print(text, show=True)
    out.print(f"\nadaptor     {escape(str(folder / 'adaptor'))}", soft_wrap=True)


def imported(client: Client, template: Record) -> None:
    say("importing the example base model and rows")
    folder_upload(client, "models", template["model"], SUMS / "base")
    for name, path in DATASETS.items():
        folder_upload(client, "datasets", name, path)
    template_put(client, template)


def measured(client: Client, template: Record, dataset: str, adaptor: str, *, as_json: bool) -> Record:
    """Exact match on `dataset`, and the share of answers that say the right sum in either format."""
    what = f"{adaptor or template['model']} on {dataset}"
    say(f"measuring {what}")
    body: dict[str, Any] = {"model": template["model"], "dataset": dataset, "adaptors": [adaptor] if adaptor else []}
    params = {"measure": "exact_match", "num_rows": 0, **DECODING}
    body_full = {"name": what, "method": "evaluate_text", "params": params, **body}
    job = followed(client, client.post("jobs", body_full), as_json=as_json)
    report = report_read(client, job["id"])
    if report is None:
        raise CliError(f"job {job['name']} left no report", "Read its log: anneal job logs.")
    return {
        "what": what,
        "exact_match": report["summary"]["exact_match"],
        "right_sums": right_sums(report["rows"]),
    }


def right_sums(rows: list[Record]) -> float:
    right = [sum_words(row["given"]) == sum_words(row["expected"]) for row in rows if "given" in row]
    return sum(right) / len(rows)


def sum_words(answer: str) -> str:
    """The number words of an answer in either format."""
    return answer.strip().removeprefix("the sum is ")


def denoised(client: Client, template: Record, adaptor: str, folder: Path, *, as_json: bool) -> Record:
    params = {"prompts": [QUESTION], **DECODING}
    body = {"method": "sample_text", "params": params, "model": template["model"], "adaptors": [adaptor]}
    job = followed(client, client.post("jobs", {"name": QUESTION, **body}), as_json=as_json)
    (text,) = texts_read(client, job["id"], folder / "texts")
    return text
