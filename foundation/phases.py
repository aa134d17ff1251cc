"""Phases of an attempt between its claim and the trainer's event `started`."""

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
