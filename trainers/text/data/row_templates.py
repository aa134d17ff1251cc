"""Jinja templates over the rows of a dataset, filled in by a process of their own: people write them.

Loops, output, memory and processor time are bounded there, so that a template is refused with a sentence and never
holds a job. `python -m trainers.text.data.row_templates` is that process: pickled input on stdin, a JSON object a line
on stdout.
"""

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, UndefinedError
from jinja2.compiler import CodeGenerator, Frame
from jinja2.nodes import Expr, Impossible, Node, TemplateData
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trainers.contract.errors import ReasonCode, TrainerError

MAX_BLOCKS = 100_000
"""Turns of loops and calls of macros in one text."""
MAX_RANGE = 10_000
MAX_CHARACTERS = 1_000_000
"""Of one text."""
MAX_TOTAL = 1 << 32
"""Characters of the texts of all rows."""
MAX_MEMORY_BYTES = 1 << 30
"""Beside the rows themselves."""
CPU_SECONDS = 20
CPU_ROWS_PER_SECOND = 100
"""A second of processor time more for so many rows; a usual template fills in thousands."""
INHERITED = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "SYSTEMROOT")
HINT = "write a shorter template, or columns that need none"


def templates_render(templates: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> list[list[str] | str]:
    """For each row the text of each template, or one sentence that says why there is none.

    Raises TrainerError(BAD_PARAMETERS) for a template that is not Jinja or goes past a bound of the process.
    """
    budget = CPU_SECONDS + len(rows) // CPU_ROWS_PER_SECOND
    order = pickle.dumps((dict(templates), [dict(row) for row in rows], budget))
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    command = [sys.executable, "-m", "trainers.text.data.row_templates"]
    done = subprocess.run(command, input=order, stdout=subprocess.PIPE, env=environment, check=False)
    answers = [json.loads(line) for line in done.stdout.split(b"\n")[:-1]]
    if answers and "bad_template" in answers[-1]:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, answers[-1]["bad_template"])
    if done.returncode or len(answers) < len(rows):
        raise _past_bounds(done.returncode, len(answers), budget, templates)
    return [answer.get("texts") or answer["error"] for answer in answers]


def _past_bounds(status: int, num_done: int, budget: int, templates: Mapping[str, str]) -> TrainerError:
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        fault = f"took more than {budget} seconds of processor time"
    else:
        fault = f"ended its process with status {status}"
    names = " or ".join(templates)
    return TrainerError(ReasonCode.BAD_PARAMETERS, f"{names} {fault} at row {num_done + 1}; {HINT}")


class _Counting(CodeGenerator):
    """Counts each turn of a loop and each call of a macro, and computes nothing while a template is only read."""

    def blockvisit(self, nodes: Iterable[Node], frame: Frame) -> None:
        self.writeline("environment.tick()")
        super().blockvisit(nodes, frame)

    def _output_child_to_const(self, node: Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo) -> str:
        if not isinstance(node, TemplateData):
            raise Impossible
        return super()._output_child_to_const(node, frame, finalize)


class _Environment(ImmutableSandboxedEnvironment):
    code_generator_class = _Counting

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined,
            autoescape=False,
            keep_trailing_newline=True,
            optimized=False,
        )
        self.globals["range"] = _range
        self.globals.pop("lipsum")
        self.blocks = 0

    def tick(self) -> None:
        self.blocks += 1
        if self.blocks > MAX_BLOCKS:
            raise ValueError(f"the template loops too often; expected at most {MAX_BLOCKS} turns for a row")


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > MAX_RANGE:
        raise ValueError(f"range() has {len(numbers)} numbers; expected at most {MAX_RANGE}")
    return numbers


def main() -> None:
    templates, rows, budget = pickle.load(sys.stdin.buffer)  # written by our own parent
    _bounds_set(budget)
    environment = _Environment()
    compiled: dict[str, Template] = {}
    for name, source in templates.items():
        try:
            compiled[name] = environment.from_string(source)
        except Exception as error:  # RecursionError of a thousand brackets, too
            _write({"bad_template": f"{name} is not a Jinja template: {_plain(error)}"})
            return
    total = 0
    for row in rows:
        answer = _row_texts(environment, compiled, row)
        total += sum(map(len, answer.get("texts", ())))
        if total > MAX_TOTAL:
            _write({"bad_template": f"{' and '.join(templates)} give more than {MAX_TOTAL} characters in all; {HINT}"})
            return
        _write(answer)


def _row_texts(environment: _Environment, compiled: Mapping[str, Template], row: Mapping[str, Any]) -> dict[str, Any]:
    texts = []
    for name, template in compiled.items():
        environment.blocks = 0
        try:
            texts.append(_text(template, row))
        except UndefinedError as error:
            return {"error": f"{name}: {_plain(error)}; the row has {', '.join(row)}"}
        except MemoryError:
            return {"error": f"{name}: needs more than {MAX_MEMORY_BYTES} bytes of memory"}
        except Exception as error:  # a template may raise whatever its filters do
            return {"error": f"{name}: {_plain(error)}"}
    return {"texts": texts}


def _text(template: Template, row: Mapping[str, Any]) -> str:
    pieces, count = [], 0
    for piece in template.generate(row):
        count += len(piece)
        if count > MAX_CHARACTERS:
            raise ValueError(f"the text is longer than {MAX_CHARACTERS} characters")
        pieces.append(piece)
    text = "".join(pieces)
    if not text.strip():
        raise ValueError("gives an empty text")
    return text


def _bounds_set(cpu_seconds: int) -> None:
    statm = Path("/proc/self/statm")
    if statm.is_file():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        _limit(resource.RLIMIT_AS, used + MAX_MEMORY_BYTES)
    _limit(resource.RLIMIT_CPU, cpu_seconds)
    _limit(resource.RLIMIT_CORE, 0)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (allowed, hard))


def _plain(error: Exception) -> str:
    return str(error)[:500] or type(error).__name__


def _write(answer: Mapping[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
