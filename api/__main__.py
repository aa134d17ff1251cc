"""`python -m api <command>`: Django's commands and ours (migrate, setup, dispatch, ...)."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "api.settings")
    if sys.argv[1:2] not in (["dispatch"], ["serve"]):  # a migration may take as long as it takes
        os.environ["ANNEAL_DATABASE_STATEMENT_SECONDS"] = "0"
    try:
        execute_from_command_line(["python -m api", *sys.argv[1:]])
    except ImproperlyConfigured as error:
        sys.exit(str(error))
