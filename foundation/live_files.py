"""Files of a running job that are published in pieces while they grow, each piece once."""

LIVE = "tensorboard-live"
"""Folder of the pieces, beside `tensorboard/` with the complete files, which are published at the end of the attempt.
The details of a piece have its `file` and its `start` in it."""
