"""The model card of an adaptor for text."""

from pathlib import Path
from typing import Any

from foundation.atomic import bytes_write
from trainers.core.card import base_name, parameters_table, quoted, table


def text_card_write(folder: Path, manifest: dict[str, Any]) -> Path:
    """Writes `folder/README.md` from the body of the job's manifest: `params`, `inputs`, `outcome`, `validation`."""
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
