"""The CUDA kernels on the host as a target of the operator tests, built once a session.

Environment: CUDA_ON_HOST_SANITIZE=1 takes the build with sanitizers, CUDA_ON_HOST_SHIPPED=1 the
one with block, tile and grid sizes as shipped, CUDA_ON_HOST_RACES=1 the one with the race detector
(with either sizes), CUDA_ON_HOST_LIBRARY a library that was built already. Every test of the target
runs with CUDA_ON_HOST_SEEDS seeds, by default with one, in CI with two.
"""

from __future__ import annotations

import functools
import os
import re
import zlib
from dataclasses import replace
from pathlib import Path

from cuda_on_host import build
from support.targets import Hooks, NamespaceOps, Target

NAME = "cuda_on_host"
#: The target's name where its sizes are as shipped: tests choose their own sizes by it.
SHIPPED_NAME = f"{NAME}_shipped"
SEEDS = int(os.environ.get("CUDA_ON_HOST_SEEDS", 2 if os.environ.get("CI") else 1))
#: Parameters of the `target` fixture; "+1" adds one to the seed.
PARAMS = [NAME, *(f"{NAME}+{seed}" for seed in range(1, SEEDS))]
#: Fibers are slow: larger tests run on the other targets only.
MAX_NUMEL = 70_000


def sanitized() -> bool:
    return os.environ.get("CUDA_ON_HOST_SANITIZE") == "1"


def shipped() -> bool:
    return os.environ.get("CUDA_ON_HOST_SHIPPED") == "1"


def races() -> bool:
    return os.environ.get("CUDA_ON_HOST_RACES") == "1"


def _variant() -> build.Variant:
    if sanitized():
        return build.SANITIZED
    variant = build.RACES if races() else build.Variant()
    # As shipped is slow on the host, so only a few tests run with it.
    return replace(variant, policy=None) if shipped() else variant


@functools.cache
def load() -> None:
    """Load the library that the environment selects."""
    given = os.environ.get("CUDA_ON_HOST_LIBRARY")
    build.load(Path(given) if given else build.build(_variant()))


def operators() -> NamespaceOps:
    """Those of the loaded library, with the signatures of ``fastprune.ops``."""
    return NamespaceOps(build.LIBRARY)


def target() -> Target:
    """The target, with the library that the environment selects. Each test sets its own seed."""
    load()
    ops = operators()
    name = SHIPPED_NAME if shipped() else NAME
    return Target(name, "cpu", ops, MAX_NUMEL, False, Hooks(build.namespace(), ""))


def seed_of(param: str, base: int) -> int:
    """The value of --cuda-seed that a parameter of the fixture stands for."""
    return base + int(param.removeprefix(NAME) or 0)


def begin_test(nodeid: str, seed: int) -> None:
    """Let the order of threads and blocks follow from the test and the seed alone."""
    test = zlib.crc32(plain(nodeid).encode())
    build.namespace().set_seed(seed << 32 | test)


def plain(nodeid: str) -> str:
    """A test's node id without the number of a further seed."""
    return re.sub(rf"\b{NAME}\+\d+", NAME, nodeid)
