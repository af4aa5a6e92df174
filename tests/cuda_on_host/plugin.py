"""Sets the seed of each test on the emulator, and tells how to repeat one that failed."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from cuda_on_host import session


def _seed(item: pytest.Item) -> int | None:
    """The seed of a test that runs on the emulator, else None."""
    callspec = getattr(item, "callspec", None)
    param = str(callspec.params.get("target", "")) if callspec else ""
    if not param.startswith(session.NAME):
        return None
    return session.seed_of(param, item.config.getoption("--cuda-seed"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cuda-seed",
        type=int,
        default=0,
        help="seed for the order of threads and blocks of CUDA kernels on the host",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    seed = _seed(item)
    if seed is not None:
        session.begin_test(item.nodeid, seed)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    seed = _seed(item)
    if seed is not None and report.failed:
        again = f"pytest '{session.plain(item.nodeid)}' --cuda-seed={seed}"
        report.sections.append(("CUDA kernels on the host", f"seed {seed}; run again: {again}"))
    return report
