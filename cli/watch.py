"""Following a job on the terminal: a bar with step, loss, speed and ETA; lines where there is no terminal."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.errors import CliError, Exit
from cli.http import Client, Record, job_events
from cli.output import err, print_json_line
from foundation.protocol import LOADING, SENTENCES

Show = Callable[[Record], None]
UNSHOWN = ("progress", "sample", "checkpoint", "finished", "failed")
"""Said again by `artifact` and `state`, once the files are safe."""
OUTCOMES = {"succeeded": Exit.DONE, "failed": Exit.FAILED, "cancelled": Exit.STOPPED, "paused": Exit.STOPPED}


def job_watch(client: Client, job: Record, *, as_json: bool = False, quiet: bool = False) -> Record:
    """Shows the job's events until it ended; returns the job then. Events go to stderr, or to stdout as JSON lines."""
    with display(job, as_json=as_json, quiet=quiet) as show:
        silences, waiting = 0, None
        for event in job_events(client, job["id"]):
            if event:
                show(event)
                continue
            silences += 1  # the stream's greeting is the first
            if silences > 1 and not (as_json or quiet):
                waiting = say_waiting(client, job, waiting)
    ended: Record = client.get(f"jobs/{job['id']}")
    return ended


def wait(client: Client, job: Record, *, as_json: bool) -> Record:
    """Follows the job; where it did not succeed the command ends with its outcome."""
    for warning in job.get("warnings") or []:
        err.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True)
    ended = job_watch(client, job, quiet=as_json)
    if outcome(ended) is not Exit.DONE:
        raise CliError(ending_sentence(ended), f"anneal job logs {ended['id'][:8]}", exit_code=outcome(ended))
    return ended


def display(job: Record, *, as_json: bool, quiet: bool) -> AbstractContextManager[Show]:
    if quiet:
        return nullcontext(lambda _: None)
    if as_json:
        return nullcontext(print_json_line)
    return bar(job) if err.is_terminal else lines()


def say_waiting(client: Client, job: Record, before: str | None) -> str | None:
    """Says once why a queued job has not started."""
    waiting: str | None = client.get(f"jobs/{job['id']}").get("waiting")
    if waiting and waiting != before:
        err.print(f"waiting: {escape(waiting)}", style="dim")
    return waiting


def outcome(job: Record) -> Exit:
    """The exit code that stands for how the job ended."""
    return OUTCOMES.get(job["state"], Exit.FAILED)


def ending_sentence(job: Record) -> str:
    """How it ended, with the reason's sentence and hint."""
    reason = job.get("reason") or {}
    product = f"; adaptor {adaptor_ref(job)}" if job.get("adaptor") else ""
    why = f": {reason['message'].rstrip('.')}. {reason['hint']}" if reason.get("message") else ""
    return f"job {job['name']} {job['state']}{product}{why}"


def adaptor_ref(job: Record) -> str:
    adaptor = job.get("adaptor")
    if isinstance(adaptor, dict):
        return f"{adaptor['name']}@{adaptor['version']}"
    return str(adaptor)


@contextmanager
def lines() -> Iterator[Show]:
    """One line for each event, and for about every tenth of the steps."""
    tenth = -1

    def show(event: Record) -> None:
        nonlocal tenth
        data = event.get("data") or {}
        if event["kind"] in UNSHOWN:
            return
        if event["kind"] == "step":
            reached = 10 * data["step"] // max(1, data["total"])
            if reached == tenth:
                return
            tenth = reached
        err.print(escape(sentence(event)), soft_wrap=True)

    yield show


@contextmanager
def bar(job: Record) -> Iterator[Show]:
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[measures]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err) as progress:
        task = progress.add_task(escape(job["name"]), total=None, measures=job["state"])

        def show(event: Record) -> None:
            data = event.get("data") or {}
            match event["kind"]:
                case "started":
                    progress.update(task, total=data["total"], completed=data.get("step", 0), measures="started")
                case "step":
                    progress.update(task, total=data["total"], completed=data["step"], measures=measures(data))
                case "phase":
                    progress.update(task, measures=phase_words(data["phase"]))
                case "progress" if data["stage"] == LOADING:
                    progress.update(task, measures=phase_words(LOADING))
                case "progress":
                    progress.update(task, measures=f"{data['stage']} {data['done']}/{data['total']}")
                case kind if kind not in UNSHOWN:
                    progress.console.print(escape(sentence(event)), style="dim", soft_wrap=True)

        yield show


def state_sentence(data: Record) -> str:
    """The state; after an attempt that ended early also why, and what happens next."""
    message = ((data.get("reason") or {}).get("message") or "").rstrip(".")
    if data["state"] == "queued" and (message or data.get("outcome")):
        ended = f"attempt {data['attempt']} {data['outcome']}: " if data.get("outcome") else ""
        return f"{ended}{message or 'it gives its place away'}; queued again{next_words(data)}"
    if data["state"] in ("failed", "paused", "cancelled") and message:
        return f"{data['state']}: {message}"
    return str(data["state"])


def next_words(data: Record) -> str:
    """`, resumes from step 40, waits until 12:03:00 UTC (try 2 of 6)`"""
    parts = []
    if "next_step" in data:
        parts.append(f"resumes from step {data['next_step']}" if data["next_step"] else "starts from the beginning")
    if data.get("not_before"):
        parts.append(f"waits until {data['not_before'][11:19]} UTC")
    tries = f" (try {data['tries'] + 1} of {data['max_tries']})" if data.get("tries") else ""
    return "".join(f", {part}" for part in parts) + tries


def phase_words(phase: str) -> str:
    return SENTENCES.get(phase, phase)


def measures(step: Record) -> str:
    """`loss 0.0312  12.1 images/s  ETA 1:05`"""
    minutes, seconds = divmod(round(step["eta_seconds"]), 60)
    loss = step["metrics"].get("loss")
    parts = [f"loss {loss:.4f}"] if loss is not None else []
    return "  ".join([*parts, f"{step['per_second']:.1f} {step['unit']}/s", f"ETA {minutes}:{seconds:02d}"])


def sentence(event: Record) -> str:
    """One line for one event."""
    data = event.get("data") or {}
    match event["kind"]:
        case "state":
            return state_sentence(data)
        case "phase":
            return phase_words(data["phase"])
        case "artifact":
            return f"{data['kind']} {data['path']}"
        case "started":
            return f"started: {data['total']} steps" + (
                f", going on from step {data['step']}" if data.get("step") else ""
            )
        case "step":
            return f"step {data['step']}/{data['total']}  {measures(data)}"
        case "validation":
            metrics = ", ".join(f"{name} {value:.4f}" for name, value in data["metrics"].items())
            return f"validation at step {data['step']}: {metrics}"
        case "warning":
            return f"warning: {data['message']}"
        case kind:
            return str(kind)
