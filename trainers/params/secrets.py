"""Names of project secrets, as parameters carry them. The values never stand in a spec. Standard library only."""

SECRET_NAME = r"^[a-z][a-z0-9_]{0,49}$"
