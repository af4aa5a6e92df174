"""verify_gpu.py, rehearsed: whatever goes wrong, the rest runs and the result file is whole."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import fastprune
from cuda_on_host.cases import kernel_cases

ROOT = Path(__file__).resolve().parents[2]


def rehearse(out: Path, fault: str, *steps: str, **env: object) -> tuple[int, list[dict[str, Any]]]:
    """The exit status, and the lines of the result file."""
    command = [sys.executable, "scripts/verify_gpu.py", str(out), *steps, "--rehearse", fault]
    done = subprocess.run(
        [*command, "--commit", "1a2b3c"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **{name: str(value) for name, value in env.items()}},
    )
    print(done.stdout, done.stderr)
    return done.returncode, [json.loads(line) for line in (out / "verify.jsonl").open()]


def statuses(lines: list[dict[str, Any]]) -> dict[str, int]:
    return {line["step"]: line["status"] for line in lines[1:]}


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_all_is_well(tmp_path: Path) -> None:
    status, lines = rehearse(tmp_path, "none", "test", "sanitize", "bench", "kernels")
    machine, tests, sanitizers, bench, kernels = lines
    assert status == 0
    assert machine["commit"] == "1a2b3c"
    assert machine["torch"] == torch.__version__
    assert tests["tests"] > 0
    assert tests["failures"] == tests["errors"] == 0
    assert list(sanitizers["tools"]) == ["memcheck", "racecheck", "initcheck", "synccheck"]
    assert bench["cases"] == kernels["cases"] == 1
    header, record = (json.loads(line) for line in (tmp_path / "benchmarks.jsonl").open())
    assert header["machine"]["commit"] == "1a2b3c"
    assert record["contenders"].keys() == {"fastprune", "upstream", "floor"}


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_a_step_that_hangs(tmp_path: Path) -> None:
    began = time.monotonic()
    status, lines = rehearse(tmp_path, "hang", "test", "bench")
    assert time.monotonic() - began < 60
    assert status == 1
    assert statuses(lines) == {"test": 124, "bench": 0}
    assert not is_alive(int((tmp_path / "child.pid").read_text()))


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_a_signal_ends_everything(tmp_path: Path) -> None:
    """As of a `timeout` around it."""
    command = [sys.executable, "scripts/verify_gpu.py", str(tmp_path), "test", "--rehearse", "hang"]
    process = subprocess.Popen(command, cwd=ROOT)
    pid = tmp_path / "child.pid"
    while not (pid.exists() and pid.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(30) == 143
    assert not is_alive(int(pid.read_text()))


def test_a_step_that_crashes(tmp_path: Path) -> None:
    status, lines = rehearse(tmp_path, "crash", "bench", "test")
    assert status == 1
    assert statuses(lines) == {"bench": -6, "test": 0}


def test_a_sanitizer_that_is_missing(tmp_path: Path) -> None:
    status, lines = rehearse(tmp_path, "no-sanitizer", "sanitize", "bench")
    assert status == 1
    assert statuses(lines) == {"sanitize": 127, "bench": 0}
    (found,) = lines[1]["tools"]["memcheck"].values()
    assert found["missing"] == "a-sanitizer-that-is-missing"


def test_a_build_that_fails(tmp_path: Path) -> None:
    status, lines = rehearse(tmp_path, "no-build", "build", "bench")
    assert status == 1
    assert statuses(lines) == {"build": 1, "bench": 0}
    assert "no C++ compiler was found" in (tmp_path / "build.log").read_text()


#: A compiler for which every source is empty, so that a build takes seconds.
EMPTY_CXX = """#!/bin/bash
arguments=()
for argument; do
  case "$argument" in
    *.cpp) arguments+=(-x c++ /dev/null) ;;
    *) arguments+=("$argument") ;;
  esac
done
exec c++ "${arguments[@]}"
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_a_build_that_succeeds(tmp_path: Path) -> None:
    """With all that a build does but to compile what is in the sources."""
    compiler = tmp_path / "empty-c++"
    compiler.write_text(EMPTY_CXX)
    compiler.chmod(0o755)
    objects = tmp_path / "objects"  # not those of other builds
    status, lines = rehearse(
        tmp_path / "out", "none", "build", CXX=compiler, FASTPRUNE_BUILD_BASE=objects
    )
    assert status == 0
    assert statuses(lines) == {"build": 0}
    assert lines[1]["spill_bytes"] == 0
    assert lines[1]["most_registers"] is None  # of no CUDA kernel
    installed = tmp_path / "out" / "site" / "fastprune"
    assert (installed / "__init__.py").exists()
    assert list(installed.glob("_C*.so"))
    units = [f.read_text() for f in objects.rglob("together/**/*.cpp")]
    together = {path for text in units for path in re.findall(r'"(.*)"', text)}
    sources = {str(f.relative_to(ROOT / "csrc")) for f in (ROOT / "csrc").rglob("*.cpp")}
    assert units and together < sources
    assert len([*objects.rglob("*.o")]) == len(units) + len(sources - together)


def test_limits_fit_into_a_quarter_of_an_hour(verify_gpu: Any) -> None:
    page = (ROOT / "docs" / "gpu.md").read_text()
    limits = verify_gpu.LIMITS_S
    assert sum(limits.values()) <= 900 - 120  # a machine takes minutes to start
    for step, seconds in limits.items():
        assert re.search(rf"^\| `{step}` \|.*\| {seconds} s \|", page, re.MULTILINE), step
    assert f"add up to {sum(limits.values())} seconds" in page


def test_sanitizers_take_every_dtype(verify_gpu: Any) -> None:
    assert tuple(str(d).removeprefix("torch.") for d in kernel_cases.DTYPES) == verify_gpu.DTYPES


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("{cases}\n========= ERROR SUMMARY: 0 errors\n", True),
        (
            "{cases}\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n",
            True,
        ),
        ("{cases}\n========= ERROR SUMMARY: 1 error\n", False),
        ("{cases}\n========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)\n", False),
        ("{cases}\n", False),
        ("========= ERROR SUMMARY: 0 errors\n", False),
    ],
)
def test_a_sanitizer_must_have_watched_all(verify_gpu: Any, output: str, expected: bool) -> None:
    assert verify_gpu.watched(output.format(cases=kernel_cases.ALL_AGREE)) is expected


def test_a_difference_does_not_hide_the_cases_after_it() -> None:
    class Ops:
        def __getattr__(self, name: str) -> Any:
            return getattr(fastprune.ops, name)

        def masked_mul(self, t: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return -fastprune.ops.masked_mul(t, mask)

    target = kernel_cases.Target(Ops(), "cpu", lambda forced: None)
    arguments = (kernel_cases.SMALL, "elementwise", torch.float32)
    assert not list(kernel_cases.differences(kernel_cases.on("cpu"), *arguments))
    found = list(kernel_cases.differences(target, *arguments))
    lists = len(kernel_cases.SMALL.lists)
    assert len(found) == 2 * 2 * lists  # two calls for each of two kinds of masks
    assert all("elementwise of torch.float32, result " in text for text in found)


def test_there_are_cases_of_which_to_time_kernels(verify_gpu: Any) -> None:
    command = [sys.executable, "benchmarks/run.py", "--list", "--quick", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--filter", verify_gpu.KERNEL_CASES], cwd=ROOT, capture_output=True, text=True
    )
    families = {name.split("/")[1] for name in done.stdout.split()}
    wanted = verify_gpu.KERNEL_CASES.strip("/()").split("|")
    assert families == {part.split("/")[0] for part in wanted}


def test_every_test_on_a_device_runs_on_a_gpu(verify_gpu: Any) -> None:
    """A test that takes `device` or `target` is among those that the step `test` runs."""
    found = set()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        file = path.relative_to(ROOT).as_posix()
        functions = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, FUNCTIONS))
        taken = {a.arg for f in functions if f.name.startswith("test_") for a in f.args.args}
        if taken & {"device", "target"} and not file.startswith("tests/project/"):
            found.add(file)
    assert "tests/api/test_api_on_devices.py" in found
    assert not [file for file in found if not file.startswith(verify_gpu.CUDA_TESTS)]


def test_the_same_tests_are_rehearsed(verify_gpu: Any) -> None:
    (listed,) = re.findall(r"^REHEARSED := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert tuple(listed.split()) == verify_gpu.CUDA_TESTS


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@pytest.fixture
def verify_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return import_module("verify_gpu")


def test_steps_add_to_what_is_there(tmp_path: Path) -> None:
    rehearse(tmp_path, "no-sanitizer", "sanitize")
    _, lines = rehearse(tmp_path, "no-sanitizer", "sanitize")
    assert [line.get("step") for line in lines] == [None, "sanitize", "sanitize"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["build", "tests"], "unknown step tests"), (["--rehearse", "fire"], "invalid choice")],
)
def test_arguments_that_are_wrong(tmp_path: Path, arguments: list[str], message: str) -> None:
    command = [sys.executable, "scripts/verify_gpu.py", str(tmp_path / "out"), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def without_a_gpu(out: Path, *steps: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "scripts" / "verify_gpu.sh"), str(out), *steps],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable, **env},
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("steps", [(), ("build", "test")])
def test_without_a_gpu(tmp_path: Path, steps: tuple[str, ...]) -> None:
    done = without_a_gpu(tmp_path / "out", *steps)
    assert done.returncode == 2
    assert "no GPU is visible" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_build_needs_no_gpu(tmp_path: Path) -> None:
    """It gets as far as the toolkit, of which there is none here."""
    done = without_a_gpu(tmp_path, "build", CUDA_HOME=str(tmp_path / "no-toolkit"))
    assert done.returncode == 1, done.stderr
    machine, build = (json.loads(line) for line in (tmp_path / "verify.jsonl").open())
    assert "device" not in machine
    assert build["status"] == 1
    assert "FORCE_CUDA=1" in (tmp_path / "build.log").read_text()
