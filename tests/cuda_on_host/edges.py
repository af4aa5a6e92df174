"""Proof that the race detector sees what each barrier and fence of the kernels is for.

Each is dropped in turn, for the detector alone: the schedule keeps it, so results stay right and
only the detector can tell. Writes docs/races.md, or what a test compares that with as JSON.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from cuda_on_host import build
from cuda_on_host.cases import kernel_cases, on_host

PAGE = build.ROOT / "docs" / "races.md"
SEEDS = 3
_CUDA = build.ROOT / "csrc" / "cuda"
_EDGE = re.compile(r"\b(__sync(?:threads(?:_or|_and|_count)?|warp)|__threadfence\w*)\(")


@dataclass(frozen=True)
class Edge:
    """A barrier or a fence in the sources."""

    kind: str
    place: str  # "topk/sweep.cuh:128"

    @property
    def families(self) -> tuple[str, ...]:
        """Of kernel_cases, those that come by here."""
        folder = self.place.split("/")[0]
        return (folder,) if folder in kernel_cases.FAMILIES else (*kernel_cases.FAMILIES,)


def edges() -> Iterator[Edge]:
    """All of them, in order of files and lines."""
    for path in sorted(_CUDA.rglob("*.cu*")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.split("//")[0]
            for match in _EDGE.finditer(code):
                yield Edge(match[1], f"{path.relative_to(_CUDA)}:{number}")


def clean() -> list[str]:
    """The reports about the kernels as they are, with several seeds."""
    reports = []
    for seed in range(SEEDS):
        build.namespace().set_seed(seed)
        report = _report(on_host(), (*kernel_cases.FAMILIES,))
        reports += [f"seed {seed}: {report}"] if report else []
    return reports


def _report(target: kernel_cases.Target, families: tuple[str, ...]) -> str:
    """The first report, or an empty string."""
    try:
        for _ in kernel_cases.results(target, kernel_cases.SMALL, families):
            pass
    except RuntimeError as error:
        target.force_fallback(False)
        (first, *_) = str(error).splitlines()
        if "race on" not in first and "nobody wrote" not in first:
            raise
        return first
    return ""


def of_fresh_memory(strided: bool, written_by: str) -> str:
    """The report about a read of what csrc allocates for kernels to write, or an empty string."""
    try:
        build.namespace().read_fresh_memory(strided, written_by)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return ""


def dropped() -> dict[str, str]:
    """By place, the report that an edge is missing."""
    target = on_host()
    reports = {}
    for edge in edges():
        build.namespace().set_seed(0)
        build.namespace().drop(edge.place)
        reports[edge.place] = _report(target, edge.families)
    build.namespace().drop("")
    return reports


def page(reports: dict[str, str]) -> str:
    """The table of all edges."""
    lines = [
        "# What each barrier and fence is for",
        "",
        "Each barrier and fence of `csrc/cuda` was dropped in turn, for the race detector alone "
        "(`tests/cuda_on_host/race`), and this is what it reported first. `make races` writes this "
        "page.",
        "",
        "| dropped | in | race on | between | and |",
        "|---|---|---|---|---|",
    ]
    for edge in edges():
        match = re.search(
            r"kernel '\(?(\w+)\W.*race on (.*?): (.*?) by .*? at (\S+), (.*?) by .*? at ([^;\s]+)",
            reports[edge.place],
        )
        found = (
            f"{match[2]} (`{match[1]}`) | {match[3]}, {match[4]} | {match[5]}, {match[6]}"
            if match
            else "nothing | |"
        )
        lines.append(f"| `{edge.kind}` | {edge.place} | {found} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the reports")
    options = parser.parse_args()
    torch.set_num_threads(1)
    build.load(build.build(build.RACES))
    found = {
        "clean": clean(),
        "launched": sorted(build.launched()),
        "dropped": dropped(),
        "fresh memory": {
            f"{'strided' if strided else 'contiguous'} {by}": of_fresh_memory(strided, by)
            for strided in (False, True)
            for by in ("nobody", "zero_", "copy_")
        },
    }
    if options.json:
        print(json.dumps(found))
        return
    for report in found["clean"]:
        print(report)
    assert isinstance(found["dropped"], dict)
    for place, report in found["dropped"].items():
        if not report:
            print(f"{place}: dropped, and nothing was reported")
    Path(PAGE).write_text(page(found["dropped"]))


if __name__ == "__main__":
    main()
