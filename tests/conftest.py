"""The targets and devices of the tests, their options, and hypothesis profiles."""

import os
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

import fastprune
from cuda_on_host import session as cuda_on_host
from support.targets import Hooks, Target

pytest_plugins = [
    "cuda_on_host.plugin",  # --cuda-seed; a failure tells how to repeat it
    "cuda_on_host.every_kernel",  # the whole suite must launch every kernel
    "support.without_cuda",
    "pytester",
]

settings.register_profile(
    "default",
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("ci", settings.get_profile("default"), max_examples=150)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--large", action="store_true", help="run tests of more than 2^31 elements")
    parser.addoption("--broken", action="store_true", help="test every broken kernel")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    needs = {"large": "needs many GiB of memory", "broken": "takes a compilation"}
    for item in items:
        for option, why in needs.items():
            if item.get_closest_marker(option) and not config.getoption(f"--{option}"):
                item.add_marker(pytest.mark.skip(reason=f"{why}: --{option}"))


@pytest.fixture(scope="session", params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """A torch device that fastprune has kernels for."""
    name: str = request.param
    return name


@pytest.fixture(scope="session", params=["cpu", "cuda", *cuda_on_host.PARAMS])
def target(request: pytest.FixtureRequest) -> Target:
    """The operators under test and the device to call them on. All operator tests use it."""
    if request.param in cuda_on_host.PARAMS:
        return cuda_on_host.target()
    return Target(
        name=request.param,
        device=request.param,
        ops=fastprune.ops,
        hooks=Hooks(fastprune._C, "_"),
    )


@pytest.fixture
def hooks(target: Target) -> Iterator[Hooks]:
    """The test hooks of the target, reset after the test."""
    yield target.hooks
    target.hooks.reset()


@pytest.fixture(autouse=True, scope="module")
def _fresh_dynamo() -> None:
    """What earlier files compiled must not count towards Dynamo's recompile limit."""
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def set_threads() -> Iterator[object]:
    """torch.set_num_threads, restored after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
