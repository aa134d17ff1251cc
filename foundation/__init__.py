"""Ground floor: knows nothing of the other packages."""
