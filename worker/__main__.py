"""python -m worker: serves this host's slots until SIGTERM."""

import os
import sys

import structlog

from worker.errors import RefusedError
from worker.host.host import Host
from worker.settings import settings_read


def main() -> int:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        return Host(settings_read(os.environ), os.environ).run()
    except ValueError as error:
        print(f"the worker cannot start: {error}", file=sys.stderr)
        return 2
    except RefusedError as error:
        print(f"the API refuses this worker: {error}; check ANNEAL_WORKER_TOKEN and ANNEAL_API_URL", file=sys.stderr)
        return 2
    except Exception:  # a fault of ours: end at once, with no thread left to go on; the shims sweep
        structlog.get_logger().exception("worker_broke")
        os._exit(70)


if __name__ == "__main__":
    sys.exit(main())
