"""`anneal generate`: texts by denoising, and how each came to be, step by step."""

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from cli.commands.sample import AdaptorScales, adaptors_parse, base_model_of
from cli.downloads import file_download, inside, samples_of
from cli.errors import CliError, Exit
from cli.http import Client, Record, without_none
from cli.output import Json, connect, out, print_json
from cli.requests import (
    Accelerators,
    Model,
    Pool,
    Priority,
    Settings,
    method_schema,
    request_body,
    settings_parse,
    takes,
    yaml_load,
)
from cli.watch import wait

METHOD = "sample_text"
GIVEN = -1
"""Step of a token that was there from the start."""
FRAME_SECONDS = 0.08
STYLES = {"given": "dim", "mask": "yellow", "new": "bold green", "there": ""}
PARAMS: dict[str, Any] = {
    "num_samples": Annotated[int | None, typer.Option("--num-samples", "-n", min=1, help="Texts for each prompt.")],
    "max_new_tokens": Annotated[int | None, typer.Option("--tokens", help="Masks after each prompt.")],
    "steps": Annotated[int | None, typer.Option(help="Denoising steps; one for each mask if left out.")],
    "block_size": Annotated[int | None, typer.Option(help="Masks are filled block by block from the left.")],
    "temperature": Annotated[float | None, typer.Option(help="0 = the likeliest token.")],
    "cfg_scale": Annotated[float | None, typer.Option(help="Classifier-free guidance; 0 = off.")],
    "remasking": Annotated[str | None, typer.Option(help="low_confidence, entropy, margin or random; not for Dream.")],
    "alg": Annotated[str | None, typer.Option(help="Dream: origin, maskgit_plus, topk_margin or entropy.")],
    "cache": Annotated[str | None, typer.Option(help="none, prefix or dual: faster, not exactly the same.")],
    "threshold": Annotated[float | None, typer.Option(help="Commit every token above this probability, as 0.9.")],
    "seed": Annotated[int | None, typer.Option(min=0, help="Text i is drawn from seed + i.")],
}
"""Options of one parameter each; what is left out has its default."""


@takes("params", PARAMS, lambda **options: without_none(options))
def generate(
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="A question to answer; may be repeated.")
    ] = None,
    infill: Annotated[
        list[str] | None, typer.Option("--infill", help="A text with gaps, as 'The [MASK:2] is red.'; may be repeated.")
    ] = None,
    chat: Annotated[
        Path | None, typer.Option("--chat", help="YAML with messages: a list of role and content.", exists=True)
    ] = None,
    model: Model = None,
    adaptor: AdaptorScales = None,
    params: Record = {},  # noqa: B006 stands for the options above
    show: Annotated[bool, typer.Option("--show", help="Replay the denoising, step by step.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the texts with their traces, as JSON.")
    ] = None,
    set_: Settings = None,
    accelerators: Accelerators = None,
    pool: Pool = None,
    priority: Priority = None,
    as_json: Json = False,
) -> None:
    """Answer prompts or fill gaps with a text-diffusion model; --model defaults to the base of the first adaptor."""
    refs, scales = adaptors_parse(adaptor or [])
    request = request_parse(prompt or [], infill or [], chat)
    with connect() as client:
        body_params = {**request, **without_none({"adaptor_scales": scales or None}), **params}
        body_params |= settings_parse(set_ or [], method_schema(client, METHOD))
        base = model or base_model_of(client, refs)
        body = request_body(model=base, adaptors=refs, accelerators=accelerators, pool=pool, priority=priority)
        job = client.post("jobs", {"name": job_name(request), "method": METHOD, "params": body_params, **body})
        ended = wait(client, job, as_json=as_json)
        texts = texts_read(client, ended["id"], output)
    if as_json:
        print_json({"job": ended["id"], "texts": texts})
        return
    for text in texts:
        text_print(text, show=show)


def request_parse(prompts: list[str], infills: list[str], chat: Path | None) -> Record:
    """The one of prompts, infill_texts and messages that was given."""
    chats = [yaml_load(chat).get("messages")] if chat else []
    requests = {"prompts": prompts, "infill_texts": infills, "messages": chats}
    present = {name: value for name, value in requests.items() if value}
    if len(present) != 1:
        raise CliError("expected one of --prompt, --infill and --chat", exit_code=Exit.USAGE)
    return present


def job_name(request: Record) -> str:
    (first, *_), *_ = request.values()
    return f"generate: {first if isinstance(first, str) else first[-1]['content']}"[:70]


def texts_read(client: Client, job: str, output: Path | None) -> list[Record]:
    """Every text of the job with its trace, written below `output` too."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = output or Path(temporary)
        samples = [one for one in samples_of(client, job) if one["path"].endswith(".json")]
        files = [file_download(one, inside(folder, Path(one["path"]).name)) for one in samples]
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def text_print(text: Record, *, show: bool) -> None:
    if show and text.get("tokens"):
        replay(text)
    prompt = text.get("prompt")
    out.print(f"[dim]{escape(prompt if isinstance(prompt, str) else str(prompt))}[/dim]", soft_wrap=True)
    out.print(escape(str(text["text"])), soft_wrap=True)


def replay(text: Record) -> None:
    """On a terminal each step takes the place of the one before; elsewhere each is a line."""
    last = max(token["step"] for token in text["tokens"])
    if not out.is_terminal:
        for step in range(GIVEN, last + 1):
            out.print(frame(text, step), soft_wrap=True)
        return
    with Live(frame(text, GIVEN), console=Console(highlight=False), auto_refresh=False) as live:
        for step in range(last + 1):
            time.sleep(FRAME_SECONDS)
            live.update(frame(text, step), refresh=True)


def frame(text: Record, step: int) -> Text:
    """The text as it was after `step`: masks where nothing was committed yet, what is new in its own colour."""
    shown = Text(f"step {step + 1:>3}  " if step > GIVEN else "start     ", style="dim")
    for token in text["tokens"]:
        if token["step"] > step:
            shown.append(str(text["mask"]), STYLES["mask"])
        else:
            word = "given" if token["step"] == GIVEN else "new" if token["step"] == step else "there"
            shown.append(str(token["text"]), STYLES[word])
    return shown
