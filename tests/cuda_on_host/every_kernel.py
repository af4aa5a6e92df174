"""Fails a run of the whole suite in which some CUDA kernel was never launched on the emulator."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cuda_on_host import build


class EveryKernel:
    """Compares the kernels in the sources with those that ran, once the session ends."""

    def __init__(self) -> None:
        self._deselected = False
        self._finished = 0
        self._errors: list[str] = []

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self._deselected = True

    def pytest_runtest_logfinish(self) -> None:
        self._finished += 1

    def _ran_the_whole_suite(self, session: pytest.Session) -> bool:
        files = set((build.ROOT / "tests").rglob("test_*.py"))
        return (
            not self._deselected
            and not any("::" in arg for arg in session.config.args)
            and files <= {item.path for item in session.items}
            and self._finished == len(session.items)
        )

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if not ended or not self._ran_the_whole_suite(session):
            return
        known, launched = build.kernels(), set(build.launched())
        if missing := sorted(known - launched):
            self._errors.append(f"launched by no test: {', '.join(missing)}")
        if unknown := sorted(launched - known):
            self._errors.append(f"launched, but not found in csrc/cuda: {', '.join(unknown)}")
        if self._errors:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._errors:
            terminalreporter.section("CUDA kernels on the host", red=True, bold=True)
            for error in self._errors:
                terminalreporter.line(f"ERROR {error}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    # With xdist no process sees all launches.
    if not hasattr(config, "workerinput") and not config.getoption("numprocesses", None):
        config.pluginmanager.register(EveryKernel(), "cuda_on_host.EveryKernel")
