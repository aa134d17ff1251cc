"""Images that a sampling starts from: a small dataset of their own, the same version for the same content."""

import shutil
import tempfile
from pathlib import Path

from cli.checking import version_ready
from cli.errors import CliError, Exit
from cli.http import Client, Record
from cli.transfers import folder_upload
from cli.versions import SAMPLING_INPUTS


def input_images(client: Client, image: Path | None, mask: Path | None) -> tuple[Record, str | None]:
    """Parameters that name the images, and the dataset version that holds them; nothing where none was given."""
    if image is None:
        if mask is not None:
            raise CliError("--mask says what to paint anew in --image, which is missing", exit_code=Exit.USAGE)
        return {}, None
    given = {"input_image": image, **({"mask_image": mask} if mask else {})}
    with tempfile.TemporaryDirectory() as folder:
        names = {word: f"{word}{path.suffix.lower()}" for word, path in given.items()}
        for word, path in given.items():
            shutil.copyfile(path, Path(folder) / names[word])
        version = version_ready(client, "datasets", folder_upload(client, "datasets", SAMPLING_INPUTS, Path(folder)))
    return names, f"{version['name']}@{version['version']}"
