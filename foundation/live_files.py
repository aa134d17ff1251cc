"""Files that a running job still writes reach its followers in pieces, each published once."""

LIVE = "tensorboard-live"
"""Folder of the pieces, beside `tensorboard/` with the whole files, which come when the attempt ends. A piece's details
say of which `file` it is, and where there it has its `start`."""
