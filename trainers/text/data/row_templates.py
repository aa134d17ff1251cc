"""Renders Jinja templates over the rows of a dataset, in a separate process since users write them.

The process limits loops, output, memory and CPU time, so that a template may fail but never block a job. It is started
as `python -m trainers.text.data.row_templates`: pickled input on stdin, one JSON object per line on stdout.
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
"""Loop iterations and macro calls for one text."""
MAX_RANGE = 10_000
MAX_CHARACTERS = 1_000_000
"""Of one text."""
MAX_TOTAL = 1 << 32
"""Characters of the texts of all rows."""
MAX_MEMORY_BYTES = 1 << 30
"""Beside the rows themselves."""
CPU_SECONDS = 20
CPU_ROWS_PER_SECOND = 100
"""Rows for each additional second of CPU time; a usual template renders thousands."""
INHERITED = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "SYSTEMROOT")
HINT = "write a shorter template, or columns that need none"


def templates_render(templates: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> list[list[str] | str]:
    """For each row the text of each template, or an error message.

    Raises TrainerError(BAD_PARAMETERS) for a template that is not valid Jinja or exceeds a limit of the process.
    """
    budget = CPU_SECONDS + len(rows) // CPU_ROWS_PER_SECOND
    payload = pickle.dumps((dict(templates), [dict(row) for row in rows], budget))
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    command = [sys.executable, "-m", "trainers.text.data.row_templates"]
    process = subprocess.run(command, input=payload, stdout=subprocess.PIPE, env=environment, check=False)
    results = [json.loads(line) for line in process.stdout.split(b"\n")[:-1]]
    if results and "bad_template" in results[-1]:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, results[-1]["bad_template"])
    if process.returncode or len(results) < len(rows):
        raise _limit_error(process.returncode, len(results), budget, templates)
    return [result.get("texts") or result["error"] for result in results]


def _limit_error(status: int, num_done: int, budget: int, templates: Mapping[str, str]) -> TrainerError:
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        fault = f"took more than {budget} seconds of processor time"
    else:
        fault = f"ended its process with status {status}"
    names = " or ".join(templates)
    return TrainerError(ReasonCode.BAD_PARAMETERS, f"{names} {fault} at row {num_done + 1}; {HINT}")


class _Counting(CodeGenerator):
    """Counts loop iterations and macro calls; evaluates nothing at compile time."""

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
        result = _row_texts(environment, compiled, row)
        total += sum(map(len, result.get("texts", ())))
        if total > MAX_TOTAL:
            _write({"bad_template": f"{' and '.join(templates)} give more than {MAX_TOTAL} characters in all; {HINT}"})
            return
        _write(result)


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


def _write(result: Mapping[str, Any]) -> None:
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
