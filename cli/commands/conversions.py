"""`anneal model merge`, `anneal adaptor import` and `extract`: jobs whose product is a model or an adaptor."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cli.commands.sample import AdaptorScales, adaptors_parse, base_model_of
from cli.completion import ADAPTORS, MODELS
from cli.errors import CliError, Exit
from cli.http import Client, Record, without_none
from cli.output import Json, connect, human_bytes, print_done
from cli.requests import Accelerators, Model, Pool, Priority, Settings, method_schema, request_body, settings_parse
from cli.uploads import folder_upload, version_ready
from cli.versions import ADAPTOR_IMPORTS, fetched
from cli.watch import adaptor_ref, wait


def model_merge(
    name: Annotated[
        str, typer.Argument(help="Name of the new base model; adds a version if it exists.", autocompletion=MODELS)
    ],
    adaptor: AdaptorScales = None,
    model: Model = None,
    set_: Settings = None,
    accelerators: Accelerators = None,
    pool: Pool = None,
    priority: Priority = None,
    as_json: Json = False,
) -> None:
    """Merge adaptors into their base model; the result is a new base model."""
    refs, scales = adaptors_parse(adaptor or [])
    if not refs:
        raise CliError("merging needs --adaptor", exit_code=Exit.USAGE)
    with connect() as client:
        params = without_none({"name": name, "scales": scales or None})
        params |= settings_parse(set_ or [], method_schema(client, "merge"))
        base = model or base_model_of(client, refs)
        body = request_body(model=base, adaptors=refs, accelerators=accelerators, pool=pool, priority=priority)
        ended = run(client, "merge", f"merge into {name}", params, body, as_json=as_json)
        version = version_ready(client, "models", fetched(client, ended, "models"))
    message = (
        f"{version['name']}@{version['version']}: {version['num_files']} files, {human_bytes(version['size_bytes'])}"
    )
    print_done(version, message, as_json=as_json)


def model_import(
    file: Path, params: Record, base: str | None, *, pool: str | None, priority: int | None, as_json: bool
) -> None:
    """A job makes a base model of a single-file checkpoint; `base`, or the Hub in `params`, gives the rest."""
    with connect() as client:
        dataset = weights_upload(client, file)
        body = request_body(dataset=dataset, model=base, accelerators=0, pool=pool, priority=priority)
        ended = run(client, "import_model", f"import {file.name}", params, body, as_json=as_json)
        version = version_ready(client, "models", fetched(client, ended, "models"))
    message = (
        f"{version['name']}@{version['version']}: {version['num_files']} files, {human_bytes(version['size_bytes'])}"
    )
    print_done(version, message, as_json=as_json)


def adaptor_import(
    file: Annotated[Path, typer.Argument(help="A LoRA: .safetensors of diffusers, PEFT or kohya.", exists=True)],
    model: Annotated[str, typer.Option(help="Base model that it was trained for.", autocompletion=MODELS)],
    name: Annotated[str | None, typer.Option(help="Name of the adaptor; the file's if left out.")] = None,
    trigger_word: Annotated[str | None, typer.Option(help="Trigger word of its prompts.")] = None,
    set_: Settings = None,
    pool: Pool = None,
    priority: Priority = None,
    as_json: Json = False,
) -> None:
    """Import a LoRA that was trained elsewhere, after checking its keys, ranks and family."""
    with connect() as client:
        dataset = weights_upload(client, file)
        params = without_none({"adaptor_name": name or file.stem, "trigger_word": trigger_word})
        params |= settings_parse(set_ or [], method_schema(client, "import_adaptor"))
        body = request_body(dataset=dataset, model=model, accelerators=0, pool=pool, priority=priority)
        ended = run(client, "import_adaptor", f"import {file.name}", params, body, as_json=as_json)
        adaptor_print(client, ended, as_json=as_json)


def adaptor_extract(
    adaptor: Annotated[str, typer.Argument(help="Name, or name@version.", autocompletion=ADAPTORS)],
    name: Annotated[str, typer.Option(help="Name of the adaptor to make.")],
    rank: Annotated[int | None, typer.Option(min=1, help="Inner width; the best fit of that rank (SVD).")] = None,
    scale: Annotated[
        float | None, typer.Option(help="Scale of the source that becomes 1.0 in the new adaptor.")
    ] = None,
    model: Model = None,
    set_: Settings = None,
    pool: Pool = None,
    priority: Priority = None,
    as_json: Json = False,
) -> None:
    """Extract an adaptor of lower rank or another scale from an existing one."""
    with connect() as client:
        params = without_none({"adaptor_name": name, "rank": rank, "scale": scale})
        params |= settings_parse(set_ or [], method_schema(client, "extract_adaptor"))
        base = model or base_model_of(client, [adaptor])
        body = request_body(model=base, adaptors=[adaptor], accelerators=0, pool=pool, priority=priority)
        ended = run(client, "extract_adaptor", f"extract {name}", params, body, as_json=as_json)
        adaptor_print(client, ended, as_json=as_json)


def weights_upload(client: Client, file: Path) -> str:
    """The dataset version that holds the file alone; the same content is the same version."""
    if not file.is_file():
        raise CliError(f"expected a file of weights, got the folder {file}")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "adaptor.safetensors").symlink_to(file.resolve())
        version = version_ready(client, "datasets", folder_upload(client, "datasets", ADAPTOR_IMPORTS, Path(folder)))
    return f"{version['name']}@{version['version']}"


def run(client: Client, method: str, name: str, params: Record, body: Record, *, as_json: bool) -> Record:
    job = client.post("jobs", {"name": name, "method": method, "params": params, **body})
    return wait(client, job, as_json=as_json)


def adaptor_print(client: Client, job: Record, *, as_json: bool) -> None:
    adaptor = client.get(f"adaptors/{adaptor_ref(job)}")
    print_done(
        adaptor,
        f"adaptor {adaptor['name']}@{adaptor['version']}, {human_bytes(adaptor['size_bytes'])}",
        as_json=as_json,
    )
