"""Rows held out for validation."""

from trainers.core.noise import Purpose, permutation


def split(num_rows: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """(training rows, held-out rows), both ascending. At least one row is held out where `share` > 0."""
    held_out = max(1, round(num_rows * share)) if share else 0
    order = permutation(num_rows, seed, Purpose.VALIDATION_SPLIT)
    return sorted(order[held_out:]), sorted(order[:held_out])
