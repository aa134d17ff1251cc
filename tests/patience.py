"""How long a test waits for what has to happen: it tells a hang from a slow machine, and is never the verdict."""

PATIENCE_SECONDS = 300.0
