"""What verify_gpu.sh runs.

Every step has a time limit, and a step that fails does not hide the rest: each adds a line to the
result file, JSON Lines, when it ends.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "verify-gpu"  # installed here, so that the machine's Python stays as it is
SANITIZER_TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
# Ten minutes in all: one sanitizer limit for each of the four tools.
BUILD_LIMIT_S, TEST_LIMIT_S, SANITIZER_LIMIT_S, BENCHMARK_LIMIT_S = 200, 160, 35, 100
COUNTS = ("tests", "failures", "errors", "skipped")
NOTHING_COLLECTED = 5  # pytest's exit status


def run(command: list[str], limit_s: int, **env: str) -> tuple[int, float, str]:
    """Exit status (124: out of time), seconds and output of a command."""
    print("+", " ".join(command), flush=True)
    began = time.monotonic()
    full_env = {**os.environ, "PYTHONPATH": str(SITE), **env}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=full_env,
            timeout=limit_s,
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        status, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as stopped:
        captured = stopped.stdout or b""
        output = captured.decode(errors="replace") if isinstance(captured, bytes) else captured
        status = 124
    seconds = round(time.monotonic() - began, 1)
    print(f"  exit {status} after {seconds} s", flush=True)
    if status != 0:
        print(output[-4000:], flush=True)
    return status, seconds, output


def build() -> dict[str, Any]:
    shutil.rmtree(SITE, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
    command += ["--no-index", "-v", "--target", str(SITE), "."]
    status, seconds, output = run(
        command, BUILD_LIMIT_S, FORCE_CUDA="1", MAX_JOBS=str(os.cpu_count() or 1)
    )
    spills = sum(map(int, re.findall(r"(\d+) bytes spill stores", output)))
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", output)]
    return {
        "status": status,
        "seconds": seconds,
        "spill_bytes": spills,
        "most_registers": max(registers, default=None),
    }


def tests() -> dict[str, Any]:
    """A process for each test file, several at a time: the CPU is what they wait for."""
    ends = time.monotonic() + TEST_LIMIT_S
    paths = (ROOT / "tests").rglob("test_*.py")
    files = sorted(paths, key=lambda p: p.stat().st_size, reverse=True)

    def run_file(path: Path) -> dict[str, Any]:
        report = ROOT / "build" / f"verify-gpu-{path.stem}.xml"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", str(path), "-q", f"--junitxml={report}"]
        command += ["-k", "cuda and not cuda_on_host", "-p", "no:cacheprovider"]
        limit = max(1, int(ends - time.monotonic()))
        status, _, output = run(command, limit, OMP_NUM_THREADS="2")
        result: dict[str, Any] = {"status": 0 if status == NOTHING_COLLECTED else status}
        if report.exists():
            suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
            result |= {k: int(suite.get(k, 0)) for k in COUNTS}
        result["failed"] = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, flags=re.M)
        return result

    began = time.monotonic()
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:
        results = dict(zip((p.stem for p in files), pool.map(run_file, files), strict=True))
    return {
        "status": next((r["status"] for r in results.values() if r["status"] != 0), 0),
        "seconds": round(time.monotonic() - began, 1),
        **{k: sum(r.get(k, 0) for r in results.values()) for k in COUNTS},
        "failed": [test for r in results.values() for test in r["failed"]][:50],
        "not_passed": {name: r["status"] for name, r in results.items() if r["status"] != 0},
    }


def sanitize(tool: str) -> dict[str, Any]:
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    command = [sanitizer, "--tool", tool, "--error-exitcode", "3", "--print-limit", "20"]
    command += [sys.executable, "scripts/sanitizer_cases.py"]
    # Without torch's cache every tensor is an allocation of its own, whose ends are checked.
    status, seconds, output = run(command, SANITIZER_LIMIT_S, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", output)
    return {"status": status, "seconds": seconds, "summary": summary[-1:]}


def benchmarks(out: Path) -> dict[str, Any]:
    out.unlink(missing_ok=True)
    command = [sys.executable, "benchmarks/run.py", "--device", "cuda", "--quick"]
    status, seconds, output = run([*command, "--json", str(out)], BENCHMARK_LIMIT_S)
    return {"status": status, "seconds": seconds, "table": output[-6000:]}


def main() -> int:
    import torch

    if not torch.cuda.is_available():
        print("verify_gpu: no GPU is visible to torch", file=sys.stderr)
        return 2
    path = Path(sys.argv[1]).resolve()
    machine = {
        "device": torch.cuda.get_device_name(),
        "capability": list(torch.cuda.get_device_capability()),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    path.write_text(json.dumps(machine) + "\n")
    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "build": build,
        "tests": tests,
        **{f"sanitize, {tool}": partial(sanitize, tool) for tool in SANITIZER_TOOLS},
        "benchmarks": partial(benchmarks, path.with_name(f"{path.stem}-benchmarks.jsonl")),
    }
    ok = True
    for name, step in steps.items():
        result = {"step": name, **step()}
        with path.open("a") as file:
            file.write(json.dumps(result) + "\n")
        ok &= result["status"] == 0
        if name == "build" and not ok:
            break
    print(f"verify_gpu: {'passed' if ok else 'FAILED'}; result in {path}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
