"""The HTTP protocol between worker, API and command line: its version and the values that they share.

docs/protocol.md has the changes.
"""

PROTOCOL = 2
"""Incremented with every incompatible change."""
OLDEST_WORKER = 1
"""The oldest version that the API serves; 1 are workers that send none."""
OLDEST_API = 2
"""The oldest version that the worker accepts."""
PROTOCOL_HEADER = "Anneal-Protocol"
"""On every response of the API; a response without it came from something between worker and API."""

# Phases of an attempt between its claim and the trainer's event `started`.
FETCHING = "fetching"
"""The worker fetches the inputs."""
IMPORTING = "importing"
"""The trainer's process imports its libraries."""
LOADING = "loading"
"""The trainer reads its model and data."""
SENTENCES = {
    FETCHING: "fetching the inputs",
    IMPORTING: "importing the libraries",
    LOADING: "loading the model and the data",
}
LIVE = "tensorboard-live"
"""Folder of the pieces of growing files, each published once while the job runs.

The complete files are in `tensorboard/` and published at the end of the attempt. The details of a piece hold its `file`
and its `start` in it.
"""
