"""Encryption of project secrets at rest: Fernet (AES-128-CBC with HMAC-SHA256) with rotating keys."""

import json

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from api.accounts.models import ProjectSecret
from api.environment import environment
from api.errors import Problem


class UnreadableError(ValueError):
    """No key decrypts it, or it was copied from another secret's row."""


def cipher() -> MultiFernet:
    """Raises Problem 409 if the operator has set no key."""
    keys = environment().fernet_keys
    if not keys:
        raise Problem(
            "secrets_off",
            "This installation keeps no project secrets, because ANNEAL_SECRETS_KEYS is not set.",
            status=409,
            hint="Ask the operator to set it to a key from `python -m api secrets_key`.",
        )
    return MultiFernet([Fernet(key) for key in keys])


def value_seal(secret: ProjectSecret, value: str) -> str:
    """The ciphertext for that row; `value_open` rejects it in any other."""
    return cipher().encrypt(json.dumps([_place(secret), value]).encode()).decode()


def value_open(secret: ProjectSecret) -> str:
    """Raises UnreadableError, or Problem if no key is set."""
    try:
        place, value = json.loads(cipher().decrypt(secret.ciphertext))
    except InvalidToken:
        raise UnreadableError(f"no key of ANNEAL_SECRETS_KEYS opens the secret {secret.name!r}") from None
    if place != _place(secret):
        raise UnreadableError(f"the ciphertext of {secret.name!r} belongs to another secret")
    return str(value)


def value_reseal(secret: ProjectSecret) -> str:
    """The same value under the first key. Raises UnreadableError."""
    try:
        return cipher().rotate(secret.ciphertext.encode()).decode()
    except InvalidToken:
        raise UnreadableError(f"no key of ANNEAL_SECRETS_KEYS opens the secret {secret.name!r}") from None


def _place(secret: ProjectSecret) -> str:
    return f"{secret.project_id}/{secret.name}/{secret.kind}"
