"""Markdown tables and the plot of a result file, and the regions of a Markdown file that hold them.

A region names the file, relative to the repository, and what to show of it:

    <!-- figures: benchmarks/results/FILE.jsonl selection=headline -->
    <!-- /figures -->
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.plot import draw
from harness.records import Result, load
from harness.tables import Table, devices, families, make_table

ROOT = Path(__file__).resolve().parents[2]

_REGION = re.compile(
    r"^<!-- figures: (?P<file>\S+) selection=(?P<selection>\S+)(?: device=(?P<device>\S+))? -->\n"
    r"(?P<body>.*?)^<!-- /figures -->$",
    re.DOTALL | re.MULTILINE,
)
_MARKER = re.compile(r"^<!-- /?figures\b", re.MULTILINE)


def to_markdown(table: Table) -> str:
    """A table in Markdown, with its notes below it."""
    lines = [table.headings, ["---"] + ["---:"] * (len(table.headings) - 1), *table.rows]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return text + "".join(f"\n{note}\n" for note in table.notes)


def machine_line(result: Result) -> str:
    """What a result was measured on, in a sentence."""
    machine = result.machine
    gpu = f"{machine['gpu']}; " if machine["gpu"] else ""
    # A result file can come from a checkout without git.
    commit = f" (commit {machine['commit']})" if machine["commit"] else ""
    pages = "; huge pages for all tensors" if machine.get("huge_pages") else ""
    if fresh := machine.get("fresh_memory_from"):
        pages += f"; fresh memory for every tensor from {fresh >> 10} KiB"
    if machine.get("kept_memory"):
        pages += "; freed memory is kept"
    return (
        f"{gpu}{machine['cpu']}, {machine['threads']} threads{pages}; torch {machine['torch']}, "
        f"fastprune {machine['fastprune']}{commit}.\n"
    )


def figures(result: Result, selection: str, device: str | None = None) -> str:
    """What belongs in a region.

    Raises:
        ValueError: there is no such selection, or it has no figures.
    """
    if selection == "machine":
        return machine_line(result)
    return to_markdown(make_table(result, selection, device))


def region(file: str, selection: str, device: str | None, body: str) -> str:
    """A region with its markers."""
    where = f" device={device}" if device else ""
    return f"<!-- figures: {file} selection={selection}{where} -->\n{body}<!-- /figures -->"


def refreshed(text: str, latest: str | None = None) -> str:
    """The text with all its regions made anew.

    Args:
        text: in Markdown.
        latest: a result file; regions of the same machine show this one from now on.

    Raises:
        OSError: a result file is not there.
        ValueError: a region asks for what its file does not have.
    """

    def replace(match: re.Match[str]) -> str:
        file = match["file"]
        if latest is not None and _machine_of(file) == _machine_of(latest):
            file = latest
        body = figures(load(ROOT / file), match["selection"], match["device"])
        return region(file, match["selection"], match["device"], body)

    return _REGION.sub(replace, text)


def _machine_of(file: str) -> str:
    """The file's name without the version."""
    return Path(file).stem.rpartition("-")[0]


def section(file: str) -> str:
    """A section with every table of a result file."""
    result = load(ROOT / file)
    parts = [f"## {result.machine['gpu'] or result.machine['cpu']}"]
    parts.append(region(file, "machine", None, figures(result, "machine")))
    for device in devices(result):
        for selection in ("headline", *families(result, device), "alternatives", "memory"):
            try:
                body = figures(result, selection, device)
            except ValueError:  # a run of selected cases may have none
                continue
            parts += [f"### {selection}, {device}", region(file, selection, device, body)]
    return "\n\n".join(parts) + "\n"


def update(readme: Path, file: str) -> None:
    """Put a result file's figures into a Markdown file: in place of older ones of the same machine,
    or else in a new section at the end.
    """
    text = readme.read_text(encoding="utf-8")
    known = {_machine_of(match["file"]) for match in _REGION.finditer(text)}
    if _machine_of(file) in known:
        text = refreshed(text, file)
    else:
        text = text.rstrip("\n") + "\n\n" + section(file)
    readme.write_text(text, encoding="utf-8")


def problem_with(readme: Path) -> str | None:
    """What is wrong with the regions of a Markdown file; None if nothing is."""
    text = readme.read_text(encoding="utf-8")
    if len(_MARKER.findall(text)) != 2 * len(_REGION.findall(text)):
        return "a region is malformed or has no end"
    for match in _REGION.finditer(text):
        try:
            expected = figures(load(ROOT / match["file"]), match["selection"], match["device"])
        except (OSError, ValueError, KeyError) as error:
            return f"{match['file']}, {match['selection']}: {error}"
        if match["body"] != expected:
            return f"{match['file']}, {match['selection']}: not what the file has"
    return None


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the tables and the plot of a result file.")
    parser.add_argument("result", type=Path, nargs="?", help="a result file")
    parser.add_argument("--readme", type=Path, help="put the tables into the regions of this file")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="write the plot to this file")
    parser.add_argument(
        "--check", type=Path, nargs="+", metavar="README", help="fail if a region is out of date"
    )
    options = parser.parse_args(arguments)
    if (options.result is None) == (options.check is None):
        parser.error("either a result file or --check is required")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    if options.check is not None:
        problems = {readme: problem_with(readme) for readme in options.check}
        for readme, problem in problems.items():
            if problem is not None:
                print(f"error: {readme}: {problem}", file=sys.stderr)
        return 1 if any(problems.values()) else 0
    try:
        path = options.result.resolve()
        file = (path.relative_to(ROOT) if path.is_relative_to(ROOT) else path).as_posix()
        if options.plot is not None:
            options.plot.write_text(draw(load(path)), encoding="utf-8")
        if options.readme is not None:
            update(options.readme, file)
        if options.plot is None and options.readme is None:
            print(section(file), end="")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
