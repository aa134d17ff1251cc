"""A training's steps as lines of its log: few enough that the log of the longest job stays small."""

from trainers.contract.events import Payload, Started, Step, Validation

MAX_LINES = 500
"""About so many lines of steps in a job, and as many of validations."""


class LogLines:
    """Prints the first and the last step, and between them one in each of MAX_LINES equal stretches of the job."""

    def __init__(self) -> None:
        self._total = 1
        self._stretches: dict[str, int] = {}
        """By kind of event, the stretch of its last line."""

    def __call__(self, payload: Payload) -> None:
        if isinstance(payload, Started):
            self._total = max(1, payload.total)
            _print(f"{payload.total} steps" + (f", going on from step {payload.step}" if payload.step else ""))
        elif isinstance(payload, Step | Validation) and self._is_due(payload):
            _print(_step_line(payload) if isinstance(payload, Step) else _validation_line(payload))

    def _is_due(self, payload: Step | Validation) -> bool:
        stretch = payload.step * MAX_LINES // self._total
        is_new = self._stretches.get(payload.kind) != stretch
        self._stretches[payload.kind] = stretch
        return is_new or payload.step == self._total


def _print(line: str) -> None:
    print(line, flush=True)


def _step_line(step: Step) -> str:
    names = {"loss": "loss {:.4f}", "learning_rate": "rate {:.3g}"}
    numbers = [form.format(step.metrics[name]) for name, form in names.items() if name in step.metrics]
    minutes, seconds = divmod(round(step.eta_seconds), 60)
    hours, minutes = divmod(minutes, 60)
    speed = f"{step.per_second:.1f} {step.unit}/s"
    return "  ".join([f"step {step.step}/{step.total}", *numbers, speed, f"ETA {hours}:{minutes:02d}:{seconds:02d}"])


def _validation_line(validation: Validation) -> str:
    numbers = "  ".join(f"{name} {value:.4f}" for name, value in validation.metrics.items())
    return f"validation at step {validation.step}  {numbers}"
