"""The model card: a README.md beside the weights, for the Hub, other tools and people."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from formats.models.image_families import FAMILIES
from foundation.atomic import bytes_write
from trainers.core.manifest import base_name, card_table, parameters_table, quoted
from trainers.image.adaptors.file import KOHYA, WEIGHTS

ORIGINS = {"import_adaptor": "imported", "extract_adaptor": "made from another adaptor"}
"""By method; all others train."""
IMAGES = "images"
"""Folder beside the card that the sample images are copied to."""


def card_write(
    folder: Path,
    manifest: dict[str, Any],
    samples: Sequence[Path] = (),
    *,
    base_prediction: str = "",
    effective: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `folder/README.md` and copies `samples` (files below `out/`) to `folder/images/`.

    `effective` has the values that the training used for parameters that are none. `manifest` is the body of the job's
    manifest: `params`, `inputs` and `family`, and optionally `outcome`, `metrics`, `layers`, `prediction_type`,
    `clip_skip`, `trigger_word` and `samples`, which has the prompt of each image. An adaptor whose prediction type is
    `base_prediction`, that of the base model, needs no other scheduler.
    """
    images = _images_copy(folder, samples)
    params = manifest["params"]
    sections = [
        _front_matter(manifest, images),
        _head(manifest),
        " ".join(f"![{_prompt_of(manifest, link)}]({link})" for link in images),
        _files(manifest),
        _usage(manifest, base_prediction),
        "" if params.get("no_metadata") else parameters_table(params, effective),
        card_table("Result", [(name, str(value)) for name, value in (manifest.get("metrics") or {}).items()]),
    ]
    bytes_write(folder / "README.md", ("\n\n".join(section for section in sections if section) + "\n").encode())
    return folder / "README.md"


def _images_copy(folder: Path, samples: Sequence[Path]) -> list[str]:
    """Links relative to the card. Deletes the images of an earlier card, of a job that was stopped and resumed."""
    target = folder / IMAGES
    shutil.rmtree(target, ignore_errors=True)
    if samples:
        target.mkdir(parents=True)
    for sample in samples:
        shutil.copyfile(sample, target / sample.name)
    return [f"{IMAGES}/{sample.name}" for sample in samples]


def _front_matter(manifest: dict[str, Any], images: list[str]) -> str:
    """The YAML front matter that the Hub reads. JSON strings are valid YAML strings, whatever they contain."""
    lines = ["---", f"base_model: {quoted(base_name(manifest))}", "library_name: diffusers"]
    lines += ["pipeline_tag: text-to-image", "tags:", "- lora", "- diffusers", "- text-to-image"]
    if trigger := _trigger(manifest):
        lines.append(f"instance_prompt: {quoted(trigger)}")
    if images:
        lines.append("widget:")
    for link in images:
        lines += [f"- text: {quoted(_prompt_of(manifest, link))}", "  output:", f"    url: {quoted(link)}"]
    return "\n".join([*lines, "---"])


def _head(manifest: dict[str, Any]) -> str:
    params = manifest["params"]
    origin = ORIGINS.get(str(manifest.get("method")), "trained")
    text = f"# {params['adaptor_name']}\n\nA LoRA adaptor of {base_name(manifest)}, {origin} with Anneal."
    if trigger := _trigger(manifest):
        text += f" Put `{trigger}` into the prompt to call it."
    if manifest.get("outcome") == "stopped":
        text += "\n\n**The training was stopped before its end; this is what it had reached.**"
    return text


def _prompt_of(manifest: dict[str, Any], link: str) -> str:
    """The prompt of a copied image, by its file name; "sample" if the manifest has none."""
    prompts = {Path(sample["path"]).name: sample.get("prompt") for sample in manifest.get("samples") or []}
    return prompts.get(Path(link).name) or "sample"


def _files(manifest: dict[str, Any]) -> str:
    """Which file is for which tool, and what else a tool needs."""
    text = (
        "## Files\n\n"
        f"- `{WEIGHTS}`: for diffusers and peft.\n"
        f"- `{KOHYA}`: for ComfyUI, Forge and sd-scripts; the same weights."
    )
    if unread := unread_by_sd_scripts(manifest["params"]):
        text += f"\n\nsd-scripts reads the second file without {unread}; the other tools read it whole."
    of_text = any(part.startswith("text_encoder") for part in manifest.get("layers", ()))
    if of_text or manifest["params"].get("train_text_encoder"):
        text += "\n\nBoth hold pairs of the text encoder too; load them into network and text encoder alike."
    if skip := int(_settings(manifest).get("clip_skip") or 0):
        last = skip + (1 if manifest.get("family", "sd1") == "sd1" else 2)
        text += f"\n\nTrained with `clip_skip={skip}`: in ComfyUI, CLIP Set Last Layer to -{last}."
    return text


def unread_by_sd_scripts(params: Mapping[str, Any]) -> str:
    """The parts of such an adaptor that sd-scripts silently ignores; "" if it reads everything."""
    unread = {
        "the pairs outside the blocks, as those of `time_embedding`": params.get("lora_targets") == "all-linear",
        "the magnitudes of DoRA": bool(params.get("use_dora")),
    }
    return " and ".join(name for name, applies in unread.items() if applies)


def _settings(manifest: dict[str, Any]) -> dict[str, Any]:
    """Where prediction type and clip_skip are: in the parameters of a training, in the manifest of other jobs."""
    params: dict[str, Any] = manifest["params"]
    return params if "lora_r" in params else manifest


def _usage(manifest: dict[str, Any], base_prediction: str) -> str:
    prompt = ", ".join(filter(None, [_trigger(manifest), "a photo"]))
    settings = _settings(manifest)
    prediction = settings.get("prediction_type")
    override = (
        "pipeline.scheduler = type(pipeline.scheduler).from_config(\n"
        f'    pipeline.scheduler.config, prediction_type="{prediction}"\n)\n'
        if prediction and prediction != base_prediction
        else ""
    )
    pipeline = FAMILIES[str(manifest.get("family", "sd1"))].pipeline
    skip = settings.get("clip_skip")
    arguments = f"{quoted(prompt)}, clip_skip={skip}" if skip else quoted(prompt)
    return (
        f"## Use\n\n```python\nimport torch\nfrom diffusers import {pipeline}\n\n"
        "# one dtype for all parts, whatever they are stored in; torch.bfloat16 on a GPU\n"
        f'pipeline = {pipeline}.from_pretrained("path/to/the/base/model", torch_dtype=torch.float32)\n'
        f'pipeline.load_lora_weights("path/to/this/folder", weight_name="{WEIGHTS}")\n'
        f"{override}image = pipeline({arguments}).images[0]\n```"
    )


def _trigger(manifest: dict[str, Any]) -> str:
    return str(manifest["params"].get("trigger_word") or manifest.get("trigger_word") or "")
