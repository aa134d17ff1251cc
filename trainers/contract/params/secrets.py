"""Names of project secrets, as parameters carry them. The values never stand in a spec. Standard library and pydantic.

A parameters class that has the field `secrets: SecretNames` gives each named secret to its attempts as an environment
variable: HF_TOKEN (kind hub), WANDB_API_KEY (wandb), ANNEAL_SECRET_<NAME> (generic).
"""

from typing import Annotated

from pydantic import Field

SECRET_NAME = r"^[a-z][a-z0-9_]{0,49}$"
SecretNames = Annotated[tuple[Annotated[str, Field(pattern=SECRET_NAME)], ...], Field(max_length=10)]
