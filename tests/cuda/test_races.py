"""The race detector: its own tests, the kernels under it, and each of their barriers and fences."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from cuda_on_host import build, edges, session

EDGES = list(edges.edges())

pytestmark = pytest.mark.skipif(session.sanitized(), reason="runs without sanitizers")


def test_selftest() -> None:
    """It reports what is a race by CUDA's rules, at the right lines, and nothing else."""
    done = subprocess.run(
        [str(build.race_selftest())],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    print(done.stdout)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert done.returncode == 0, failed or done.stdout[-2000:]


@pytest.fixture(scope="module")
def found() -> Any:
    """What the detector reports: a process of its own, as it is another build of the kernels."""
    done = subprocess.run(
        [sys.executable, "-m", "cuda_on_host.edges", "--json"],
        cwd=build.ROOT / "tests",
        stdout=subprocess.PIPE,
        text=True,
        timeout=900,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_the_kernels_have_no_races_and_read_what_is_written(found: Any) -> None:
    assert found["clean"] == []


def test_what_kernels_are_to_write_is_not_written_before(found: Any) -> None:
    """So a kernel that reads of it what nobody wrote is one of the reports above."""
    assert len(found["fresh memory"]) == 6
    for case, report in found["fresh memory"].items():
        if case.endswith("nobody"):
            assert "kernel 'read_kernel'" in report
            assert "read of global memory that nobody wrote" in report
        else:
            assert report == ""


def test_every_kernel_ran(found: Any) -> None:
    assert set(found["launched"]) == build.kernels()


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.place)
def test_a_dropped_edge_is_a_race(found: Any, edge: edges.Edge) -> None:
    """Every barrier and fence is needed, and the detector knows what for: lines of kernels."""
    report = found["dropped"][edge.place]
    assert "race on" in report
    lines = re.findall(r" by .*? at ([^,;\s]+)", report)
    assert len(lines) >= 2
    assert all(re.fullmatch(r"\w+\.cuh?:\d+", line) for line in lines), report


def test_the_page_is_up_to_date() -> None:
    rows = [line for line in edges.PAGE.read_text().splitlines() if line.startswith("| `__")]
    named = [tuple(cell.strip(" `") for cell in row.split("|")[1:3]) for row in rows]
    assert named == [(edge.kind, edge.place) for edge in EDGES], "make races writes it"
