"""Looks at hostile files: a program of its own (`python -m api.catalog.checking IN OUT`), directory in, directory out.

It runs as a child of the API under resource limits and knows no database, no storage keys and no network; a test holds
that nothing here imports Django. `api.catalog.versions.check_run` starts it.
"""
