"""Time fastprune against torch.nn.utils.prune and against the floor, or compare two result files.

Every case is checked before it is timed. Exit status: 1 if a result was wrong or something got
slower than allowed, 2 if there was nothing to do.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import fastprune
from harness import machine
from harness.compare import report_changes
from harness.console import make_console, show
from harness.kernels import cuda_kernels
from harness.memory import cuda_peak
from harness.records import FASTPRUNE, UPSTREAM, Record, Result, load, save
from harness.tables import devices, families, make_table
from harness.timing import Budget, Clock, Contender, CpuClock, CudaClock, measure
from suite.cases import DTYPES, Case
from suite.families import all_cases, build
from suite.memory import cpu_peak, lacking
from suite.workload import Workload

FULL = {"cpu": Budget(0.5, 0.15, 51), "cuda": Budget(0.4, 0.2, 101)}
QUICK = {"cpu": Budget(0.15, 0.05, 21), "cuda": Budget(0.1, 0.05, 51)}


@dataclass
class Run:
    """A run and its results so far."""

    options: argparse.Namespace
    machine: dict[str, Any]
    start: float = field(default_factory=time.perf_counter)
    records: list[Record] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    clocks: dict[str, Clock] = field(default_factory=dict)

    def clock(self, device: str) -> Clock:
        if device not in self.clocks:
            cuda = device == "cuda"
            self.clocks[device] = CudaClock(self.options.warm) if cuda else CpuClock()
        return self.clocks[device]

    def result(self) -> Result:
        """What there is so far."""
        settings: dict[str, Any] = {
            name: getattr(self.options, name)
            for name in ("quick", "filter", "device", "dtype", "warm", "budget")
        }
        settings["seconds"] = time.perf_counter() - self.start
        if isinstance(clock := self.clocks.get("cuda"), CudaClock):
            settings["event_pair_seconds"] = clock.empty_pair
        return Result(self.machine, settings, self.records, self.skipped, self.failed)

    def do(self, case: Case) -> None:
        """Check and time a case; keep its record, or the reason why there is none."""
        reason = lacking(case, FASTPRUNE)
        if reason is not None:
            self.skipped[case.name] = reason
            return
        try:
            self.records.append(self._record(case, build(case)))
        except ImportError as error:
            self.skipped[case.name] = str(error)
        except Exception as error:  # one case must not end a long run
            self.failed[case.name] = f"{type(error).__name__}: {error}"
        finally:
            _release(case.device)

    def _record(self, case: Case, workload: Workload) -> Record:
        workload.check()
        _release(case.device)
        skipped = {}
        contenders = workload.contenders
        reason = lacking(case, UPSTREAM)
        if reason is not None:
            skipped[UPSTREAM] = reason
            contenders = [c for c in contenders if c.name != UPSTREAM]
        budget = (QUICK if self.options.quick else FULL)[case.device].times(self.options.budget)
        timings, failed = measure(contenders, self.clock(case.device), budget)
        return Record(
            name=case.name,
            device=case.device,
            family=case.family,
            variant=case.variant,
            dtype=case.dtype,
            numel=case.numel,
            tensors=len(case.shapes),
            data=case.data,
            amount=case.amount,
            bytes=workload.bytes,
            contenders=timings,
            peaks=self._peaks(case, [c for c in contenders if c.name in timings]),
            skipped=skipped | failed,
            kernels=self._kernels(case, contenders[0]),
        )

    def _kernels(self, case: Case, contender: Contender) -> dict[str, float]:
        """Of fastprune on a GPU, if asked for; where the profiler fails, its reason is kept."""
        if not self.options.kernels or case.device != "cuda":
            return {}
        try:
            return cuda_kernels(contender)
        except RuntimeError as error:
            self.skipped[f"{case.name}, kernels"] = str(error)
            return {}

    def _peaks(self, case: Case, contenders: list[Contender]) -> dict[str, int]:
        """Peak memory of fastprune and upstream: on a GPU always, on the CPU of selected cases of
        the whole run, because it takes a process each.
        """
        libraries = [c for c in contenders if c.name in (FASTPRUNE, UPSTREAM)]
        if case.device == "cuda":
            return {c.name: cuda_peak(c) for c in libraries}
        if self.options.quick or not case.peak:
            return {}
        peaks = {c.name: cpu_peak(case, c.name) for c in libraries}
        return {name: peak for name, peak in peaks.items() if peak is not None}


def _release(device: str) -> None:
    """Free the memory of the last case."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def choose_devices(wanted: str) -> list[str]:
    """The devices to run on: "all" is the CPU, and CUDA where torch and fastprune have it."""
    cuda = torch.cuda.is_available() and bool(fastprune._C.build_info()["cuda"])
    if wanted == "all":
        return ["cpu", "cuda"] if cuda else ["cpu"]
    return [] if wanted == "cuda" and not cuda else [wanted]


def choose_cases(options: argparse.Namespace) -> list[Case]:
    cases = [c for d in choose_devices(options.device) for c in all_cases(d, options.dtype)]
    return [
        case
        for case in cases
        if (case.quick or not options.quick) and re.search(options.filter, case.name)
    ]


def result_file(path: Path, described: dict[str, Any]) -> Path:
    """The file to keep a result in; in a folder, by its conventional name."""
    return path if path.suffix == ".jsonl" else path / machine.file_name(described)


def run_cases(cases: list[Case], options: argparse.Namespace, console: Console) -> Result:
    """Run cases one after the other, keeping the results after each; an interrupt ends the run."""
    run = Run(options, machine.describe(list(dict.fromkeys(case.device for case in cases))))
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    # Refreshed explicitly: a thread that redraws would take time from the measurement.
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task("", total=len(cases))
        try:
            for case in cases:
                progress.update(task, description=case.name, refresh=True)
                run.do(case)
                if options.json is not None:
                    save(run.result(), result_file(options.json, run.machine))
                progress.update(task, advance=1, refresh=True)
        except KeyboardInterrupt:
            console.print("interrupted")
    return run.result()


def print_result(result: Result, console: Console) -> None:
    for device in devices(result):
        for family in families(result, device):
            show(console, make_table(result, family, device))
        for selection in ("alternatives", "memory", "kernels"):
            try:
                show(console, make_table(result, selection, device))
            except ValueError:  # no case of this run has any
                continue
    missing = {f"{r.name}, {who}": why for r in result.records for who, why in r.skipped.items()}
    for name, reason in (result.skipped | missing).items():
        console.print(f"skipped {name}: {reason}")
    for name, reason in result.failed.items():
        console.print(f"FAILED {name}: {reason}")
    console.print(f"{len(result.records)} cases in {result.settings['seconds']:.0f} s")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="few cases, within a minute")
    parser.add_argument("--filter", default="", metavar="REGEX", help="cases whose name matches")
    parser.add_argument("--device", choices=("all", "cpu", "cuda"), default="all")
    parser.add_argument("--dtype", choices=DTYPES, help="every case in this dtype")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own choice")
    parser.add_argument(
        "--budget",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="time and samples for each contender, over what they get by default",
    )
    parser.add_argument("--warm", action="store_true", help="on a GPU, leave the L2 cache warm")
    parser.add_argument(
        "--kernels",
        action="store_true",
        help="on a GPU, also the time of each kernel that fastprune launches",
    )
    parser.add_argument("--list", action="store_true", help="print the names of the cases and stop")
    parser.add_argument(
        "--json", type=Path, metavar="FILE.jsonl", help="keep the result; or a folder to keep it in"
    )
    parser.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        metavar="FILE.jsonl",
        help="print what this run changed against an older result; of two, what changed between "
        "them, and run nothing",
    )
    parser.add_argument(
        "--max-slowdown", type=float, metavar="FACTOR", help="with --compare: fail beyond it"
    )
    options = parser.parse_args(arguments)
    if options.max_slowdown is not None and options.compare is None:
        parser.error("--max-slowdown needs --compare")
    if options.budget <= 0:
        parser.error("--budget must be positive")
    if options.compare is not None and len(options.compare) > 2:
        parser.error("--compare takes one or two files")
    if options.json is not None and options.json.suffix == ".json":
        parser.error(f"results are JSON Lines: --json {options.json.with_suffix('.jsonl')}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    console = make_console()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        older = [load(path) for path in options.compare or ()]
        cases = choose_cases(options)
    except (OSError, ValueError, re.error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if len(older) == 2:
        old, new = older
        return 0 if report_changes(console, old, new, options.max_slowdown) else 1
    if not cases:
        print("error: no case matches, or no such device", file=sys.stderr)
        return 2
    if options.list:
        print(*(case.name for case in cases), sep="\n")
        return 0
    result = run_cases(cases, options, console)
    print_result(result, console)
    if options.json is not None:
        console.print(f"wrote {result_file(options.json, result.machine)}")
    fine = not result.failed
    if older:
        fine &= report_changes(console, older[0], result, options.max_slowdown)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
