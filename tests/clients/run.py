"""Run the pruning tests of the libraries that use torch.nn.utils.prune, in each mode of plugin.py.

    python tests/clients/run.py --pytorch PATH --lightning PATH --coremltools PATH

Each path is a checkout that fits the release installed. A test counts as failed if it does not pass
where torch.nn.utils.prune is left as it is.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Client:
    """Where a library keeps its tests of pruning."""

    name: str
    package: str
    folder: str  # in which its tests are run
    tests: str
    options: tuple[str, ...] = ()


CLIENTS = [
    Client("pytorch", "torch", ".", "test/nn/test_pruning.py"),
    Client("lightning", "lightning", "tests", "tests_pytorch/callbacks/test_pruning.py"),
    Client(
        "coremltools",
        "coremltools",
        ".",
        "coremltools/test/optimize/torch/pruning",
        ("--noconftest",),  # its fixtures are for other tests, and need torchvision
    ),
]
UPSTREAM = "upstream"
MODES = (UPSTREAM, "name replaced", "patched before", "patched after")


@dataclass(frozen=True)
class Result:
    """The names of the tests by outcome; ``error`` is why there are none."""

    passed: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()
    skipped: frozenset[str] = frozenset()
    error: str = ""

    def __str__(self) -> str:
        if self.error:
            return "did not run"
        return f"{len(self.passed)} / {len(self.failed)} / {len(self.skipped)}"


def read_report(file: Path) -> Result:
    """The outcomes in a JUnit report."""
    outcomes: dict[str, set[str]] = {"passed": set(), "failed": set(), "skipped": set()}
    for case in ElementTree.parse(file).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            outcomes["failed"].add(name)
        else:
            outcomes["skipped" if "skipped" in kinds else "passed"].add(name)
    outcomes["passed"] -= outcomes["failed"]  # a subtest of it may have failed
    return Result(**{kind: frozenset(names) for kind, names in outcomes.items()})


def run(client: Client, checkout: Path, mode: str, log: Path) -> Result:
    """Run one client's tests in one mode; pytest's output goes to ``log``."""
    report = log.with_suffix(".xml")
    # importlib: a checkout must not hide the installed package of the same name.
    command = [sys.executable, "-m", "pytest", "-p", "plugin", "--import-mode=importlib"]
    command += ["-q", "-ra", f"--junit-xml={report}", *client.options, client.tests]
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    if client.folder != ".":  # its tests import helpers from there
        path = os.pathsep.join([path, str(checkout / client.folder)])
    environment = {**os.environ, "PYTHONPATH": path, "FASTPRUNE_CLIENT_MODE": mode}
    with log.open("w") as out:
        done = subprocess.run(
            command,
            cwd=checkout / client.folder,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=1800,
            check=False,
        )
    if not report.exists():
        return Result(error=f"pytest exited with {done.returncode}")
    result = read_report(report)
    if not result.passed | result.failed:
        return Result(error=f"no test ran, pytest exited with {done.returncode}")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for client in CLIENTS:
        parser.add_argument(f"--{client.name}", default="", metavar="PATH", help="a checkout")
    parser.add_argument("--logs", help="folder for pytest's output; default: temporary")
    options = parser.parse_args()
    logs = Path(options.logs or tempfile.mkdtemp(prefix="fastprune-clients-")).resolve()
    logs.mkdir(parents=True, exist_ok=True)

    results: dict[str, dict[str, Result]] = {}
    for client in CLIENTS:
        checkout = getattr(options, client.name)
        if not checkout:
            print(f"{client.name}: no checkout given ({client.name.upper()}=PATH)")
            continue
        folder = Path(checkout).resolve()
        if not (folder / client.folder / client.tests).exists():
            raise SystemExit(f"{client.name}: {folder / client.folder / client.tests} is missing")
        try:
            print(f"{client.name}: {client.package} {version(client.package)}, {folder}")
        except PackageNotFoundError:
            raise SystemExit(f"{client.name}: {client.package} is not installed") from None
        results[client.name] = {
            mode: run(client, folder, mode, logs / f"{client.name}-{mode.replace(' ', '-')}.log")
            for mode in MODES
        }
    if not results:
        raise SystemExit("nothing ran: name a checkout")
    return report_all(results, logs)


def report_all(results: dict[str, dict[str, Result]], logs: Path) -> int:
    """Print the table, and what is wrong; the exit status."""
    print("\npassed / failed / skipped")
    print(f"{'':14}" + "".join(f"{mode:>18}" for mode in MODES))
    for name, by_mode in results.items():
        print(f"{name:14}" + "".join(f"{by_mode[mode]!s:>18}" for mode in MODES))
    wrong = []
    for name, by_mode in results.items():
        expected = by_mode[UPSTREAM]
        for mode, result in by_mode.items():
            if result.error:
                wrong.append(f"{name}, {mode}: {result.error}")
            elif mode == UPSTREAM:
                for test in sorted(result.failed):
                    print(f"{name}: {test} fails with upstream")
            else:
                bad = sorted(expected.passed - result.passed)
                wrong += [f"{name}, {mode}: {test}" for test in bad]
    for line in wrong:
        print(line)
    print(f"Output of pytest: {logs}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
