"""A module that no prepared process may hold, in the way that UNFIT names."""

import os
import threading

if os.environ["UNFIT"] == "thread":
    threading.Thread(target=threading.Event().wait, name="waits", daemon=True).start()
elif os.environ["UNFIT"] == "file":
    FILE = os.open("/dev/full", os.O_WRONLY)
else:
    raise ImportError("no such library")
