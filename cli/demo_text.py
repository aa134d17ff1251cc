"""`anneal demo --text`: a small diffusion model of sums in words learns a new way to answer."""

from pathlib import Path
from typing import Any

from rich.markup import escape

from cli.commands.generate import text_print, texts_read
from cli.commands.templates import template_put
from cli.demo import followed, platform_up, say
from cli.downloads import adaptor_write
from cli.errors import CliError
from cli.http import Client, Record
from cli.output import out, print_json, print_table
from cli.report import report_read
from cli.requests import yaml_load
from cli.transfers import folder_upload
from cli.watch import adaptor_ref

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "sums"
OWN, NEW = "sums-unseen", "sums-polite-unseen"
"""Datasets of the same questions: answered as the base does, and as the adaptor shall."""
QUESTION = "sixty eight plus fifty seven"
DECODING = {"max_new_tokens": 8, "block_size": 8, "batch_size": 64}
DATASETS = {
    "sums-polite": EXAMPLE / "polite",
    OWN: EXAMPLE / "unseen",
    NEW: EXAMPLE / "polite_unseen",
}


def run_text_demo(folder: Path, *, as_json: bool) -> None:
    """Prints exact match before and after, and one denoising. Raises CliError that says which part failed."""
    if not (EXAMPLE / "template.yaml").exists():
        raise CliError(f"the example is not at {EXAMPLE}", "`anneal demo` runs from a checkout of the project.")
    folder.mkdir(parents=True, exist_ok=True)
    with platform_up(folder) as login, Client(login) as client:
        template = yaml_load(EXAMPLE / "template.yaml")
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
    folder_upload(client, "models", template["model"], EXAMPLE / "base")
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
