"""Writes the outputs of a `masked_text` job: an adaptor with its card, a fused model, facts for the manifest."""

from pathlib import Path
from typing import Any

from foundation.atomic import bytes_write
from trainers.contract.params.masked_text import MaskedTextParams
from trainers.core.card import base_name, parameters_table, quoted, table
from trainers.core.context import JobContext, Outcome
from trainers.core.loop import Progress
from trainers.core.manifest import manifest_body
from trainers.text.adaptors.lora import text_adaptor_load, text_adaptor_save
from trainers.text.adaptors.merge import lora_merge, model_write, stored_dtype
from trainers.text.data.dataset import TextDataset, max_length_of
from trainers.text.models.base import TextBase
from trainers.text.models.load import load_text
from trainers.text.training.trainable import DTYPES, TrainableBase


def outputs_write(
    job: JobContext[MaskedTextParams], trained: TrainableBase, progress: Progress, outcome: Outcome
) -> None:
    """Writes out/adaptor for LoRA, out/model for full fine-tuning, both with `fuse`."""
    params = job.params
    if not params.lora:
        model_write(trained.base, job.out / "model", dtype=DTYPES[params.dtype])
        return
    text_adaptor_save(
        trained.base, job.out / "adaptor", _adaptor_metadata(job, progress, bos_first=trained.base.bos_first)
    )
    text_card_write(job.out / "adaptor", manifest_body(job, outcome))
    if params.fuse:
        fused = load_text(job.model, stored_dtype(job.model))
        text_adaptor_load(fused, job.out / "adaptor", "fuse", 1.0)
        lora_merge(fused)
        fused.shift, fused.bos_first = trained.base.shift, trained.base.bos_first
        model_write(fused, job.out / "model")


def manifest_facts(params: MaskedTextParams, base: TextBase, dataset: TextDataset) -> dict[str, Any]:
    """Facts for the manifest: resolved parameters, special tokens, counts of the dataset."""
    return {
        "family": base.family,
        "training_method": params.training_method,
        "perbatch_cutoff": params.cuts_per_batch,
        "resp_cutoff_ratio": params.cut_ratio,
        "loss_weight_type": params.weighting,
        "geo_p": params.geo_p,
        "loss_norm_type": params.loss_norm_type,
        "mask_prompt_loss": params.mask_prompt_loss,
        "eos_padding": params.eos_padding,
        "eos_token": base.tokenizer.convert_ids_to_tokens(base.eos_id),
        "pad_token": base.tokenizer.convert_ids_to_tokens(base.pad_id),
        "mask_token": base.tokenizer.convert_ids_to_tokens(base.mask_id),
        "max_length": max_length_of(params, base),
        "dataset": dataset.facts(),
        "equal_on_any_processes": not params.model_dropout and not (params.lora and params.lora_dropout),
    }


def _adaptor_metadata(job: JobContext[MaskedTextParams], progress: Progress, *, bos_first: bool) -> dict[str, str]:
    model = job.spec.inputs.model
    assert model is not None
    return {
        "base_sha256": model.sha256,
        "base_name": model.name,
        "base_model": model.name,
        "name": job.params.adaptor_name,
        "training_method": job.params.training_method,
        **({"bos_first": "true"} if bos_first else {}),
        "step": str(progress.step),
    }


def text_card_write(folder: Path, manifest: dict[str, Any]) -> Path:
    """Writes the model card to `folder/README.md` from the manifest's `params`, `inputs`, `outcome`, `validation`."""
    params = manifest["params"]
    base = base_name(manifest)
    head = ["---", f"base_model: {quoted(base)}", "library_name: peft", "pipeline_tag: text-generation"]
    sections = [
        "\n".join([*head, "tags:", "- lora", "- text-diffusion", "---"]),
        f"# {params['adaptor_name']}\n\nA LoRA adaptor of {base} for text by denoising, trained with Anneal.",
        "**The training was stopped before its end; this is what it had reached.**"
        if manifest.get("outcome") == "stopped"
        else "",
        "## Files\n\n- `adapter_model.safetensors`, `adapter_config.json`: for peft, and for `anneal generate`.",
        "## Use\n\n```python\nfrom peft import PeftModel\n\n"
        f'model = PeftModel.from_pretrained(base, "path/to/this/folder")  # base: the model {base}\n```',
        parameters_table(params),
        table("Result", [(name, str(value)) for name, value in (manifest.get("validation") or {}).items()]),
    ]
    bytes_write(folder / "README.md", ("\n\n".join(section for section in sections if section) + "\n").encode())
    return folder / "README.md"
