"""`anneal sample`: queue a sampling job, wait for it, download its images."""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from cli.completion import ADAPTORS
from cli.downloads import file_download, samples_of
from cli.errors import CliError, Exit
from cli.http import Client, Record, without_none
from cli.output import Json, connect, out, print_json, print_rows
from cli.requests import (
    Accelerators,
    JobRef,
    Model,
    Pool,
    Priority,
    Settings,
    method_schema,
    request_body,
    settings_parse,
    takes,
)
from cli.uploads import folder_upload, version_ready
from cli.versions import SAMPLING_INPUTS
from cli.watch import wait

METHOD = "sample_image"
AdaptorScales = Annotated[
    list[str] | None,
    typer.Option("--adaptor", "-a", help="name, name@version or name:scale; may be repeated.", autocompletion=ADAPTORS),
]


IMAGE = {"exists": True, "dir_okay": False}
PARAMS: dict[str, Any] = {
    "negative_prompt": Annotated[str | None, typer.Option(help="What the image must not show.")],
    "num_images": Annotated[int | None, typer.Option("--num-images", "-n", min=1, max=8, help="Number of images.")],
    "seed": Annotated[int | None, typer.Option(min=0, help="Image i is drawn from seed + i.")],
    "num_inference_steps": Annotated[int | None, typer.Option("--steps", min=1, help="Denoising steps.")],
    "guidance_scale": Annotated[float | None, typer.Option("--guidance", help="How closely to follow the prompt.")],
    "guidance_rescale": Annotated[float | None, typer.Option(help="Reduces the contrast that guidance adds, 0 to 1.")],
    "scheduler": Annotated[str | None, typer.Option(help="default, euler, euler_a, lms, dpm++_2m, ddim or unipc.")],
    "width": Annotated[int | None, typer.Option(help="Pixels; a multiple of 8, of 16 for SD3 and Flux.")],
    "height": Annotated[int | None, typer.Option(help="Pixels.")],
    "strength": Annotated[float | None, typer.Option(help="Share of noise added to --image first, up to 1.")],
    "clip_skip": Annotated[int | None, typer.Option(help="Final layers of CLIP to skip.")],
    "max_sequence_length": Annotated[int | None, typer.Option(help="Tokens for T5, in SD3 and Flux.")],
    "intermediate_every": Annotated[
        int | None, typer.Option("--every", help="Save an intermediate image every N steps.")
    ],
    "mixed_precision": Annotated[str | None, typer.Option("--precision", help="no, fp16 or bf16.")],
}
"""Options of one parameter each; what is left out has its default."""


@takes("params", PARAMS, lambda **options: without_none(options))
def sample(
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What the image must show.")],
    model: Model = None,
    adaptor: AdaptorScales = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Base, adaptor, adaptor + trigger word side by side.")
    ] = False,
    image: Annotated[Path | None, typer.Option("--image", "-i", help="Image to start from.", **IMAGE)] = None,
    mask: Annotated[Path | None, typer.Option(help="White = repaint, black = keep.", **IMAGE)] = None,
    params: Record = {},  # noqa: B006 stands for the options above
    output: Annotated[Path, typer.Option("--output", "-o", help="Image to write; numbered if there are more.")] = Path(
        "sample.png"
    ),
    set_: Settings = None,
    accelerators: Accelerators = None,
    pool: Pool = None,
    priority: Priority = None,
    as_json: Json = False,
) -> None:
    """Generate images with a base model and adaptors; --model defaults to the base of the first adaptor."""
    refs, scales = adaptors_parse(adaptor or [])
    with connect() as client:
        images, dataset = input_images(client, image, mask)
        options = {"prompt": prompt, "compare": compare or None, "adaptor_scales": scales or None}
        values = {
            **without_none(options),
            **params,
            **images,
            **settings_parse(set_ or [], method_schema(client, METHOD)),
        }
        body = request_body(
            dataset=dataset,
            model=model or base_model_of(client, refs),
            adaptors=refs,
            accelerators=accelerators,
            pool=pool,
            priority=priority,
        )
        job = client.post("jobs", {"name": f"sample: {prompt[:60]}", "method": METHOD, "params": values, **body})
        ended = wait(client, job, as_json=as_json)
        files = images_download(samples_of(client, job["id"]), output, compare=compare)
    result_print(ended, files, as_json=as_json)


def resample(
    job: JobRef,
    output: Annotated[Path, typer.Option("--output", "-o", help="Image to write; numbered if there are more.")] = Path(
        "sample.png"
    ),
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed; without it, the same images.")] = None,
    set_: Settings = None,
    as_json: Json = False,
) -> None:
    """Repeat an earlier sampling; options override its parameters."""
    with connect() as client:
        params = without_none({"seed": seed}) | settings_parse(set_ or [], method_schema(client, METHOD))
        again = client.post(f"jobs/{job}/rerun", {"params": params})
        ended = wait(client, again, as_json=as_json)
        compare = bool(ended["params"].get("compare"))
        files = images_download(samples_of(client, again["id"]), output, compare=compare)
    result_print(ended, files, as_json=as_json)


def samplings(
    adaptor: Annotated[str | None, typer.Option(help="Sampled with this adaptor.", autocompletion=ADAPTORS)] = None,
    model: Model = None,
    search: Annotated[str | None, typer.Option(help="Part of the prompt.")] = None,
    as_json: Json = False,
) -> None:
    """Samplings of the project, newest first; `anneal resample JOB` repeats one."""
    with connect() as client:
        rows = list(client.pages("samplings", adaptor=adaptor, model=model, search=search))
    if not as_json:
        rows = [{**row, "short": row["job"][:8], "with": [one["name"] for one in row["adaptors"]]} for row in rows]
    columns = {"job": "short", "prompt": "prompt", "seeds": "seeds", "adaptors": "with", "model": "model"}
    print_rows(rows, columns | {"state": "state", "created": "created"}, as_json=as_json)


def result_print(job: Record, files: list[Path], *, as_json: bool) -> None:
    if as_json:
        print_json({"job": job["id"], "files": [str(file) for file in files]})
    else:
        out.print("\n".join(f"wrote {escape(str(file))}" for file in files), soft_wrap=True)


def adaptors_parse(texts: list[str]) -> tuple[list[str], list[float]]:
    """`["shapes@2:0.8"]` as references and scales; no scales where none was given."""
    refs, scales = [], []
    for one in texts:
        ref, colon, scale = one.rpartition(":")
        try:
            refs.append(ref if colon else one)
            scales.append(float(scale) if colon else 1.0)
        except ValueError:
            raise CliError(f"--adaptor expects name[@version][:scale], got {one!r}", exit_code=Exit.USAGE) from None
    return refs, scales if any(":" in one for one in texts) else []


def base_model_of(client: Client, refs: list[str]) -> str:
    if not refs:
        raise CliError("sampling needs --model or --adaptor", exit_code=Exit.USAGE)
    base = client.get(f"adaptors/{refs[0]}")["base_model"]
    return str(base["name"] if isinstance(base, dict) else base)


def images_download(samples: list[Record], output: Path, *, compare: bool) -> list[Path]:
    """With `compare` the sheet alone, else each image; then what the denoising showed on the way."""
    finished = [one for one in samples if not is_step(one)]
    selected = [one for one in finished if (Path(one["path"]).stem == "comparison") == compare]
    if not selected:
        raise CliError("the job succeeded but has no images", "Look at its log.")
    names = [output] if len(selected) == 1 else [output.with_stem(f"{output.stem}-{i}") for i in range(len(selected))]
    files = [file_download(one, name) for one, name in zip(selected, names, strict=True)]
    steps = [one for one in samples if is_step(one)]
    return files + [file_download(one, output.with_stem(f"{output.stem}-{Path(one['path']).stem}")) for one in steps]


def is_step(sample: Record) -> bool:
    """Whether it shows an image that is still noisy."""
    return "denoising_step" in (sample.get("details") or {})


def input_images(client: Client, image: Path | None, mask: Path | None) -> tuple[Record, str | None]:
    """Parameters that name the images, and the dataset version that holds them; nothing where none was given."""
    if image is None:
        if mask is not None:
            raise CliError("--mask needs --image, the image to repaint", exit_code=Exit.USAGE)
        return {}, None
    paths = {"input_image": image, **({"mask_image": mask} if mask else {})}
    with tempfile.TemporaryDirectory() as folder:
        names = {word: f"{word}{path.suffix.lower()}" for word, path in paths.items()}
        for word, path in paths.items():
            shutil.copyfile(path, Path(folder) / names[word])
        version = version_ready(client, "datasets", folder_upload(client, "datasets", SAMPLING_INPUTS, Path(folder)))
    return names, f"{version['name']}@{version['version']}"
