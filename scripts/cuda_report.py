"""What the compiled kernels take of a GPU and how wide they access memory, read off the binary.

Needs no GPU: ``make cuda-report``, which installs cuobjdump and nvdisasm from PyPI. A kernel has
many instances, one for each combination of dtypes; a row gives the range over them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

#: Bits of an access by the last part of its opcode; LDG.E and STG.E alone move 32.
WIDTHS = {"128": "128", "64": "64", "U16": "16", "S16": "16", "U8": "8", "S8": "8"}


@dataclass
class Instance:
    """One compiled kernel."""

    registers: int = 0
    shared: int = 0
    opcodes: Counter[str] = field(default_factory=Counter)

    def count(self, *prefixes: str) -> int:
        """Instructions whose opcode begins with one of these."""
        return sum(n for opcode, n in self.opcodes.items() if opcode.startswith(prefixes))

    def widths(self, prefix: str) -> set[str]:
        """Bits of its loads or stores of global memory."""
        parts = [opcode.split(".") for opcode in self.opcodes if opcode.startswith(prefix)]
        return {next((WIDTHS[p] for p in part if p in WIDTHS), "32") for part in parts}


def kernel_of(symbol: str) -> str:
    """The name of a kernel without namespaces and template arguments."""
    for length in re.finditer(r"\d+", symbol):  # mangled: each name after its length
        name = symbol[length.end() : length.end() + int(length[0])]
        if name.endswith("_kernel"):
            return name
    return symbol


def tool(name: str) -> str:
    """A tool of the toolkit that pip installed."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(folder).rglob(f"bin/{name}"):
            return str(path)
    return name


def disassembly(*arguments: str) -> str:
    """What cuobjdump prints; it calls nvdisasm, which has to be on the path."""
    path = f"{Path(tool('nvdisasm')).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [tool("cuobjdump"), *arguments],
        env={**os.environ, "PATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def instances(library: Path, arch: str) -> dict[str, Instance]:
    """Every kernel of the library for an architecture, by symbol."""
    found: dict[str, Instance] = defaultdict(Instance)
    symbol = ""
    for line in disassembly("--dump-resource-usage", "-arch", arch, str(library)).splitlines():
        if match := re.match(r"\s*Function (\S+):", line):
            symbol = match[1]
        elif symbol and (match := re.search(r"REG:(\d+).*?SHARED:(\d+)", line)):
            found[symbol].registers, found[symbol].shared = int(match[1]), int(match[2])
    for line in disassembly("-sass", "-arch", arch, str(library)).splitlines():
        if match := re.match(r"\s*Function : (\S+)", line):
            symbol = match[1]
        elif match := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)", line):
            found[symbol].opcodes[match[1]] += 1
    return {symbol: instance for symbol, instance in found.items() if "kernel" in symbol}


def span(values: list[int]) -> str:
    """The least and the most of some numbers."""
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"


def report(library: Path, arch: str) -> Table:
    """A table of the kernels for an architecture."""
    table = Table(title=f"{library.name}, {arch}")
    for column in ("kernel", "instances", "registers", "shared B", "local accesses"):
        table.add_column(column, justify="left" if column == "kernel" else "right")
    for column in ("loads, bits", "stores, bits"):
        table.add_column(column)
    table.add_column("global atomics", justify="right")
    groups: dict[str, list[Instance]] = defaultdict(list)
    for symbol, instance in instances(library, arch).items():
        groups[kernel_of(symbol)].append(instance)
    for kernel, group in sorted(groups.items()):
        widths = [
            " ".join(sorted(set().union(*(i.widths(p) for i in group)), key=int))
            for p in ("LDG", "STG")
        ]
        table.add_row(
            kernel,
            str(len(group)),
            span([i.registers for i in group]),
            span([i.shared for i in group]),
            span([i.count("LDL", "STL") for i in group]),
            *widths,
            span([i.count("ATOMG", "RED") - i.count("REDUX") for i in group]),
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", type=Path, help="fastprune's _C library, built with CUDA")
    parser.add_argument("--arch", action="append", help="such as sm_90; more than once for several")
    arguments = parser.parse_args()
    console = Console(width=140)
    for arch in arguments.arch or ["sm_80", "sm_90", "sm_100"]:
        console.print(report(arguments.library, arch))


if __name__ == "__main__":
    main()
