"""Checks that run in some processes at once, connected by a group of gloo.

``python -m support.ranks FILE FOLDER SIZE RANK`` is one of SIZE processes: it imports FILE and runs
what that has marked with ``check``, in order and up to the first that fails, with the outcomes in
FOLDER.
"""

from __future__ import annotations

import datetime
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]

#: How many processes: RANKS, or else two and four, in CI three and four. Three divide few sizes.
SIZES = [int(n) for n in os.environ.get("RANKS", "3 4" if os.environ.get("CI") else "2 4").split()]

#: By file and name.
CHECKS: dict[str, dict[str, Callable[[], None]]] = {}


def check(function: Callable[[], None]) -> Callable[[], None]:
    """Marks a function that all processes run. It must communicate alike in all."""
    CHECKS.setdefault(function.__code__.co_filename, {})[function.__name__] = function
    return function


def names_in(file: str) -> Iterable[str]:
    """The names of the checks of a file, those to come included."""
    return CHECKS.setdefault(file, {})


@functools.cache
def failures(file: str, size: int = 2) -> dict[str, str]:
    """The traces of the checks of a file that failed, by name; those that never ended, too."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "support.ranks", file, folder, str(size)]
        processes = [
            subprocess.Popen([*command, str(rank)], cwd=TESTS, stderr=subprocess.PIPE, text=True)
            for rank in range(size)
        ]
        said = [said_by(process) for process in processes]
        failed: dict[str, str] = {}
        for rank in range(size):
            out = Path(folder) / f"{rank}.json"
            outcomes = json.loads(out.read_text()) if out.exists() else {}
            for name in CHECKS[file]:
                trace = outcomes.get(name, f"did not end, or did not begin\n{said[rank]}")
                if trace:
                    failed[name] = f"{failed.get(name, '')}rank {rank}: {trace}"
    return failed


def said_by(process: subprocess.Popen[str]) -> str:
    """What a process wrote to stderr; one that hangs is killed."""
    try:
        return process.communicate(timeout=300)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[1]


def main(file: str, folder: str, size: str, rank: str) -> None:
    import torch
    import torch.distributed as dist

    from support import ranks  # the module that FILE imports, not __main__

    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", int(size))
    timeout = datetime.timedelta(seconds=120)  # processes start apart on a busy machine
    dist.init_process_group(
        "gloo", store=store, rank=int(rank), world_size=int(size), timeout=timeout
    )
    spec = importlib.util.spec_from_file_location("checks", file)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    outcomes: dict[str, str] = {}
    for name, function in ranks.CHECKS[file].items():
        torch.manual_seed(0)
        try:
            function()
            outcomes[name] = ""
        except Exception:
            outcomes[name] = traceback.format_exc()
        Path(folder, f"{rank}.json").write_text(json.dumps(outcomes))
        if outcomes[name]:  # the others may wait for it, until they lose it
            os._exit(1)
    dist.barrier()
    os._exit(0)  # a group that Python frees may wait for threads that wait for the GIL


if __name__ == "__main__":
    main(*sys.argv[1:])
