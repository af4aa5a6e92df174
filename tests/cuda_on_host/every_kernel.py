"""Fails a run of the whole suite in which some CUDA kernel was never launched on the emulator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cuda_on_host import build

#: What a worker of pytest-xdist tells under this key: how many tests there are, or 0 for a part of
#: the suite, and the kernels that it launched.
_KEY = "every_kernel"


class EveryKernel:
    """Compares the kernels in the sources with those that ran, once the session ends."""

    def __init__(self) -> None:
        self._deselected = False
        self._skipped: set[Path] = set()  # whole files, such as those of a package that is missing
        self._finished = 0
        self._told: list[tuple[int, list[str]]] = []  # by each worker
        self._errors: list[str] = []

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self._deselected = True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._skipped.add(build.ROOT / report.nodeid)

    def pytest_runtest_logfinish(self) -> None:
        self._finished += 1

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        self._told.append(getattr(node, "workeroutput", {}).get(_KEY, (0, [])))

    def _tests_of_the_suite(self, session: pytest.Session) -> int:
        """How many tests were collected; 0 if those are a part."""
        files = set((build.ROOT / "tests").rglob("test_*.py"))
        whole = (
            not self._deselected
            and not any("::" in arg for arg in session.config.args)
            and files <= {item.path for item in session.items} | self._skipped
        )
        return len(session.items) if whole else 0

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if hasattr(session.config, "workerinput"):
            told = self._tests_of_the_suite(session), sorted(build.launched())
            session.config.workeroutput[_KEY] = told  # type: ignore[attr-defined]
            return
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return
        # With pytest-xdist it is the workers that collect and launch.
        tests = {count for count, _ in self._told} or {self._tests_of_the_suite(session)}
        if tests != {self._finished} or self._finished == 0:
            return
        launched = {*build.launched(), *(name for _, names in self._told for name in names)}
        known = build.kernels()
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
    config.pluginmanager.register(EveryKernel(), "cuda_on_host.EveryKernel")
