"""Commands with a time limit, each a process group of its own: nothing of it outlives the limit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_groups: set[int] = set()  # of the commands that run

OUT_OF_TIME = 124
NOT_FOUND = 127
GRACE_S = 5.0  # to write results after an interrupt


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status (negative: the signal that ended it) and output."""

    status: int
    seconds: float
    output: str


def run(
    command: Sequence[str], log: Path, limit_s: float, *, cwd: Path, env: Mapping[str, str]
) -> Outcome:
    """Run a command, its output going to a file as it comes.

    Out of time, its process group gets an interrupt, on which pytest and the benchmarks write what
    they have, and is killed ``GRACE_S`` later.
    """
    print("+", *command, flush=True)
    began = time.monotonic()
    with log.open("wb") as out:
        try:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(env),
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            out.write(f"{error}\n".encode())
            status = NOT_FOUND
        else:
            _groups.add(process.pid)
            try:
                status = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                _signal(process.pid, signal.SIGINT)
                _wait(process, GRACE_S)
                status = OUT_OF_TIME
            finally:  # also when this program is interrupted
                _signal(process.pid, signal.SIGKILL)
                process.wait()
                _groups.discard(process.pid)
    seconds = round(time.monotonic() - began, 1)
    output = log.read_text(errors="replace")
    print(f"  exit {status} after {seconds} s", flush=True)
    if status != 0:
        print(output[-3000:], flush=True)
    return Outcome(status, seconds, output)


def stop_all() -> None:
    """Kill every command that runs, in whatever thread."""
    for group in tuple(_groups):
        _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> None:
    """To the whole group: compilers, workers and a sanitizer's target are not direct children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
