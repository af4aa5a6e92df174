"""The CUDA kernels on the host as a target of the operator tests, built once a session.

Environment: CUDA_ON_HOST_SANITIZE=1 takes the build with sanitizers, CUDA_ON_HOST_LIBRARY a library
that was built already. CI runs every test of the target with two more seeds.
"""

from __future__ import annotations

import functools
import os
import re
import zlib
from pathlib import Path

from cuda_on_host import build
from support.targets import Hooks, NamespaceOps, Target

NAME = "cuda_on_host"
#: Parameters of the `target` fixture; those of a "+1" run with the seed one higher.
PARAMS = [NAME, f"{NAME}+1", f"{NAME}+2"] if os.environ.get("CI") else [NAME]
#: Fibers are slow: tests of more elements are left to the other targets.
MAX_NUMEL = 70_000


def sanitized() -> bool:
    return os.environ.get("CUDA_ON_HOST_SANITIZE") == "1"


@functools.cache
def _load() -> None:
    given = os.environ.get("CUDA_ON_HOST_LIBRARY")
    build.load(Path(given) if given else build.build(build.SANITIZED if sanitized() else None))


def target() -> Target:
    """The target, with the library the environment asks for. Each test sets a seed of its own."""
    _load()
    ops = NamespaceOps(build.LIBRARY)
    return Target(NAME, "cpu", ops, MAX_NUMEL, False, Hooks(build.namespace(), ""))


def seed_of(param: str, base: int) -> int:
    """The value of --cuda-seed that a parameter of the fixture stands for."""
    return base + int(param.removeprefix(NAME) or 0)


def begin_test(nodeid: str, seed: int) -> None:
    """Threads and blocks take turns in an order that follows from the test and the seed alone."""
    test = zlib.crc32(plain(nodeid).encode())
    build.namespace().set_seed(seed << 32 | test)


def plain(nodeid: str) -> str:
    """The test's name without the number that CI adds."""
    return re.sub(rf"\b{NAME}\+\d+", NAME, nodeid)
