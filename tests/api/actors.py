"""Who calls the API in tests, and how they send files."""

import hashlib
import json
import math
import struct
import zlib
from typing import Any

import httpx
from django.contrib.auth import get_user_model
from rest_framework.test import APIClient

from api.accounts.models import Membership, Project
from api.accounts.tokens import SCOPES, user_token_create, worker_token_create

Files = dict[str, bytes]
HTTP = httpx.Client(verify=False, trust_env=False)
"""One for all: making a client reads the certificates of the world."""


def person(project: str = "default", role: str = "writer", scopes: tuple[str, ...] = SCOPES) -> APIClient:
    """A client of a user that is a member of that project, made where it is not there."""
    home, _ = Project.objects.get_or_create(name=project)
    user, _ = get_user_model().objects.get_or_create(username=f"{role}-of-{project}")
    Membership.objects.get_or_create(project=home, user=user, defaults={"role": role})
    plain, _ = user_token_create(user=user, project=home, name="test", scopes=scopes)
    return with_token(plain)


def worker() -> APIClient:
    plain, _ = worker_token_create(name="test")
    return with_token(plain)


def with_token(plain: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {plain}")
    return client


def file_list(files: Files) -> list[dict[str, Any]]:
    return [
        {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in files.items()
    ]


def upload(client: APIClient, links: str, kind: str, name: str, files: Files) -> Any:
    """Announces, sends over real HTTP to the link server at `links`, and asks for the version: the last answer."""
    client.post(f"/api/v1/{kind}", {"name": name}, format="json")
    answer = client.post(f"/api/v1/{kind}/{name}/uploads", {"files": file_list(files)}, format="json")
    if answer.status_code != 200:
        return answer
    send(answer.json(), links, files)
    return client.post(f"/api/v1/{kind}/{name}/versions", {"upload": answer.json()["upload"]}, format="json")


def send(announced: dict[str, Any], links: str, files: Files) -> None:
    for link in announced["files"]:
        if link["url"] is not None:
            url = link["url"].replace("http://testserver", links)
            HTTP.request(link["method"], url, headers=link["headers"], content=files[link["path"]]).raise_for_status()


def png(width: int = 64, height: int = 64, seed: int = 0) -> bytes:
    """A real grey image."""
    rows = b"".join(b"\0" + bytes((seed + x + y) % 256 for x in range(width)) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def metadata(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def images(count: int = 2) -> Files:
    """A small good dataset."""
    files = {f"{i}.png": png(seed=i) for i in range(count)}
    return {**files, "metadata.jsonl": metadata([{"file_name": path, "text": f"image {path}"} for path in files])}


def safetensors(shape: tuple[int, ...] = (2, 2), extra: bytes = b"") -> bytes:
    """One float32 tensor of zeros."""
    size = 4 * math.prod(shape)
    header = json.dumps({"weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size) + extra


def base_model() -> Files:
    """What the door of a Stable Diffusion 1.x folder looks at; no trainer could use it."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    return {
        "model_index.json": json.dumps(index).encode(),
        "unet/diffusion_pytorch_model.safetensors": safetensors(),
        "vae/diffusion_pytorch_model.safetensors": safetensors((3,)),
        "text_encoder/model.safetensors": safetensors((4, 1)),
        "tokenizer/tokenizer.json": b"{}",
        "scheduler/scheduler_config.json": b'{"_class_name": "DDIMScheduler"}',
    }
