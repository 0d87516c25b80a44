"""The server of `tests.warm`: imports heavy packages, then forks a child for each program that is asked for.

A request is a line of JSON on standard input, an answer a number on a line of standard output. An object with code,
arguments, environment, cwd, out and err starts a program; the answer is its process number. A process number waits for
the end of a program; the answer is its exit code, negative where a signal ended it.
"""

import json
import os
import sys
import traceback
from typing import Any

import matplotlib.figure
import onnx
import onnxruntime
import tensorboard.summary
import torch._dynamo
import torch.onnx

__all__ = ["matplotlib", "onnx", "onnxruntime", "tensorboard", "torch"]


def execute(code: str, arguments: list[str], environment: dict[str, str], cwd: str, out: str, err: str) -> int:
    """Execute code as a new interpreter would; return the exit code."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["-c", *arguments]
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Serve until standard input ends."""
    sys.path.insert(0, sys.argv[1])
    for line in sys.stdin:
        request: int | dict[str, Any] = json.loads(line)
        if isinstance(request, int):
            _, status = os.waitpid(request, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if not pid:
            sys.exit(execute(**request))  # as at the end of a program: threads are joined, exit functions run
        print(pid, flush=True)


if __name__ == "__main__":
    main()
