"""Builds for the GPU of this machine, tests, sanitizes and times: docs/gpu.md.

Each step has a time limit and can be run by itself; what was built is kept. A step that fails does
not hide the rest. All output goes to one folder: a log for each command, and verify.jsonl, whose
first line is the machine and to which each step adds a line when it ends.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import compilers
import limited

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "verify-gpu"  # installed here, so that the machine's Python stays as it is
SANITIZER_TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
#: The kernels of each under a sanitizer of its own: kernel_cases.py --dtype.
DTYPES = ("float32", "float64", "float16", "bfloat16")
#: A sanitizer finds its target by one of ten sockets from its port on, so each gets its own ten.
PORTS = range(49152, 65536, 10)
#: With two minutes for the start of a machine less than 15 minutes in all: docs/gpu.md.
LIMITS_S = {"build": 180, "test": 220, "sanitize": 160, "bench": 150, "kernels": 70}
#: For a build where there is no GPU, maybe on few cores.
WITHOUT_A_GPU_S = 3600
#: No others, as these need packages that a machine with a GPU may lack, such as onnx.
CUDA_TESTS = ("tests/api/test_api_on_devices.py", "tests/cuda", "tests/ops")
#: Those of which it is worth knowing: several kernels, or one that is far from its floor.
KERNEL_CASES = "/(local|iterative|structured|global|nm/8:16|rows|blocks|masked_muls_)/"
FAULTS = ("none", "hang", "crash", "no-sanitizer", "no-build")
COUNTS = ("tests", "failures", "errors", "skipped")

Result = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What the steps run, and where their output goes.

    Attributes:
        out: the folder for it.
        fault: of a rehearsal, which runs on the CPU; None on a GPU.
        commit: of the sources, where there is no .git.
        has_gpu: if not, no GPU waits for the build.
    """

    out: Path
    fault: str | None
    commit: str | None
    has_gpu: bool

    @property
    def site(self) -> Path:
        """Where it is installed; a rehearsal's is its own."""
        return SITE if self.fault is None else self.out / "site"

    def run(self, name: str, command: Sequence[str], limit_s: float, **env: str) -> limited.Outcome:
        """Run a command of a step, with what was built in front of what is installed."""
        paths = [str(self.site), *filter(None, [os.environ.get("PYTHONPATH")])]
        programs = [str(Path(sys.executable).parent), *_folders_of_ninja(), os.environ["PATH"]]
        given = {
            "PYTHONPATH": os.pathsep.join(paths),
            "PATH": os.pathsep.join(programs),
            **({"FASTPRUNE_COMMIT": self.commit} if self.commit else {}),
        }
        log = self.out / f"{name}.log"
        env = {**os.environ, **given, **env}
        return limited.run(command, log, limit_s, cwd=ROOT, env=env)

    def limit(self, step: str) -> float:
        if step == "build" and self.fault is None and not self.has_gpu:
            return WITHOUT_A_GPU_S
        return 3 if (self.fault, step) == ("hang", "test") else LIMITS_S[step]


def _folders_of_ninja() -> list[str]:
    """Where ninja's Python package keeps the program, which need not be on PATH."""
    spec = importlib.util.find_spec("ninja")
    folders = (spec.submodule_search_locations or []) if spec else []
    return [str(path.parent) for folder in folders for path in Path(folder).rglob("bin/ninja")]


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def build(plan: Plan) -> Result:
    """Install into a folder of the checkout; torch's objects are kept for the next time."""
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
    command += ["--no-index", "-v", "--upgrade", "--target", str(plan.site), "."]
    env = {"FORCE_CUDA": "1", "FASTPRUNE_NVCCFLAGS": "-lineinfo"} | compilers.that_throw()
    if plan.fault is not None:
        env = {"FORCE_CUDA": "0"}
    if plan.fault == "no-build":
        env["CXX"] = "a-compiler-that-is-missing"
    done = plan.run("build", command, plan.limit("build"), MAX_JOBS=str(os.cpu_count() or 1), **env)
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", done.output)]
    return {
        "status": done.status,
        "seconds": done.seconds,
        "cxx": env.get("CXX") or os.environ.get("CXX", "c++"),
        "spill_bytes": sum(map(int, re.findall(r"(\d+) bytes spill stores", done.output))),
        "most_registers": max(registers, default=None),
    }


def test(plan: Plan) -> Result:
    """The tests of CUDA tensors: several processes where pytest has its plugins for that."""
    report = plan.out / "tests.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}"]
    command += ["-p", "no:cacheprovider", "--continue-on-collection-errors"]
    if _has("xdist"):
        # Most of the time of a test goes into Python and a reference on the CPU, on one core.
        command += ["-n", str(max(1, (os.cpu_count() or 1) * 3 // 4)), "--dist", "worksteal"]
        # Else the run would end, without a word in its counts, after four crashes a worker.
        command += ["--max-worker-restart", "10000"]
    if _has("pytest_timeout"):
        command += ["--timeout", "120"]
    if plan.fault is None:
        command += [*CUDA_TESTS, "-k", "cuda and not (cuda_on_host or test_races or every_kernel)"]
    else:
        command += ["tests/ops/elementwise/test_combine_masks.py", "-k", "cuda_on_host"]
    if plan.fault == "hang":
        command = [sys.executable, str(Path(__file__).with_name("hang.py")), str(plan.out)]
    done = plan.run("test", command, plan.limit("test"), OMP_NUM_THREADS="1")
    result: Result = {"status": done.status, "seconds": done.seconds}
    if report.exists():
        suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
        result |= {count: int(suite.get(count, 0)) for count in COUNTS}
    result["failed"] = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.output, flags=re.M)[:50]
    return result


def sanitize(plan: Plan) -> Result:
    """compute-sanitizer's tools side by side, for each dtype: all are busy on one core."""
    began = time.monotonic()
    deadline = began + plan.limit("sanitize")
    runs = [(tool, dtype) for tool in SANITIZER_TOOLS for dtype in DTYPES]
    if plan.fault is not None:
        runs = [(tool, DTYPES[0]) for tool in SANITIZER_TOOLS]
    with ThreadPoolExecutor(max(len(SANITIZER_TOOLS), min(len(runs), os.cpu_count() or 1))) as pool:
        try:
            found = list(
                pool.map(partial(_sanitize, plan, deadline), *zip(*runs, strict=True), PORTS)
            )
        except BaseException:  # the pool waits for its threads, and they for their commands
            limited.stop_all()
            raise
    tools: dict[str, dict[str, Result]] = {tool: {} for tool in SANITIZER_TOOLS}
    for (tool, dtype), result in zip(runs, found, strict=True):
        tools[tool][dtype] = result
    return {
        "status": next((r["status"] for r in found if r["status"] != 0), 0),
        "seconds": round(time.monotonic() - began, 1),
        "tools": tools,
    }


def _sanitize(plan: Plan, deadline: float, tool: str, dtype: str, port: int) -> Result:
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    cases = [sys.executable, "scripts/kernel_cases.py", "--dtype", dtype]
    command = [program, "--tool", tool, "--port", str(port), "--error-exitcode", "3"]
    command += ["--launch-timeout", "120"]  # of all at once, each of which imports torch first
    if tool == "racecheck":  # which would take all cores for itself
        command += ["--racecheck-num-workers", "1"]
    command += ["--print-limit", "20", *cases]
    if plan.fault == "no-sanitizer":
        command[0] = "a-sanitizer-that-is-missing"
    elif plan.fault is not None:
        command = [*cases, "--device", "cpu", "--small"]
    # Without torch's cache every tensor is an allocation of its own, whose ends are checked.
    env = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "OMP_NUM_THREADS": "1"}
    left = max(1.0, deadline - time.monotonic())
    done = plan.run(f"sanitize-{tool}-{dtype}", command, left, **env)
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", done.output)
    missing = {"missing": command[0]} if done.status == limited.NOT_FOUND else {}
    status = done.status
    if status == 0 and plan.fault is None and not watched(done.output):
        status = 1  # a sanitizer that did not attach may let its target run
    return {"status": status, "seconds": done.seconds, "summary": summary[-1:], **missing}


def watched(output: str) -> bool:
    """Whether a sanitizer summed up, and all of its cases ran."""
    summed_up = re.search(r"^=+ (?:ERROR|RACECHECK) SUMMARY: 0 ", output, flags=re.M)
    return summed_up is not None and "kernel_cases: all results agree with the CPU" in output


def bench(plan: Plan) -> Result:
    """The short benchmark; its results are kept after every case."""
    return _bench(plan, "bench", "benchmarks.jsonl")


def kernels(plan: Plan) -> Result:
    """The time of each kernel, in a run of its own, as a profiler may slow what comes after it."""
    options = ("--kernels", "--budget", "0.1", "--filter", KERNEL_CASES)
    return _bench(plan, "kernels", "kernels.jsonl", *options)


def _bench(plan: Plan, step: str, name: str, *options: str) -> Result:
    file = plan.out / name
    file.unlink(missing_ok=True)
    command = [sys.executable, "benchmarks/run.py", "--device", "cuda", "--quick"]
    command += ["--json", str(file), *options]
    if plan.fault is not None:
        command += ["--device", "cpu", "--filter", "masked_mul/forward/float32/10000/"]
    if plan.fault == "crash":
        command = [sys.executable, "-c", "import os; os.abort()"]
    done = plan.run(step, command, plan.limit(step))
    cases = max(0, len(file.read_text().splitlines()) - 1) if file.exists() else 0
    return {"status": done.status, "seconds": done.seconds, "cases": cases}


STEPS: dict[str, Callable[[Plan], Result]] = {
    "build": build,
    "test": test,
    "sanitize": sanitize,
    "bench": bench,
    "kernels": kernels,
}


def describe(plan: Plan) -> Result:
    """The machine and the versions."""
    import torch

    described: Result = {"torch": torch.__version__, "cuda": torch.version.cuda}
    described |= {"cores": os.cpu_count(), "commit": plan.commit, "rehearsal": plan.fault}
    if plan.fault is None and plan.has_gpu:
        described["device"] = torch.cuda.get_device_name()
        described["capability"] = list(torch.cuda.get_device_capability())
    return described


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="verify_gpu.sh")
    parser.add_argument("out", type=Path, help="folder for all output; what is there is kept")
    parser.add_argument("steps", nargs="*", help=f"of {', '.join(STEPS)}; all if none is named")
    parser.add_argument("--commit", help="of the sources, where there is no .git")
    parser.add_argument(
        "--rehearse",
        choices=FAULTS,
        nargs="?",
        const="none",
        help="on the CPU, with something that goes wrong",
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.steps) - set(STEPS):
        parser.error(f"unknown step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    import torch

    options = parse_arguments(arguments)
    steps = options.steps or list(STEPS)
    has_gpu = torch.cuda.is_available()
    if options.rehearse is None and steps != ["build"] and not has_gpu:
        print("verify_gpu: no GPU is visible to torch", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # runs all `finally`
    plan = Plan(options.out.resolve(), options.rehearse, options.commit, has_gpu)
    plan.out.mkdir(parents=True, exist_ok=True)
    path = plan.out / "verify.jsonl"

    def add(line: Result) -> None:
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    if not path.exists():
        add(describe(plan))
    ok = True
    for name in steps:
        try:
            result = {"step": name, **STEPS[name](plan)}
        except Exception as error:  # such as a report that was cut off
            result = {"step": name, "status": 1, "error": f"{type(error).__name__}: {error}"}
        add(result)
        ok &= result["status"] == 0
    print(f"verify_gpu: {'passed' if ok else 'FAILED'}; results in {plan.out}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
