"""The lowest package: imports none of the others."""
