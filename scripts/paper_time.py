"""What a selection should take on an H100, by arithmetic: nothing here has been measured.

Bytes at the rate of a large copy, instructions at the rate at which multiprocessors issue them,
round trips where a thread has to wait, and launches. ``python scripts/paper_time.py`` prints the
tables of docs/design.md: the kernels as they were before their second round and as they are, by one
model with the constants of one machine, and by the same model the kernels of N:M, rows and blocks.
A measurement on a GPU replaces it.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

#: H100 SXM.
BANDWIDTH = 3.35e12 * 0.9  # bytes a second: a copy loses a tenth of the nominal rate
MULTIPROCESSORS = 132
CLOCK = 1.7e9
ISSUE = 4 * MULTIPROCESSORS * CLOCK  # instructions of a warp, a second
MEMORY = 0.7e-6  # a load from memory under load, or an atomic that returns
CACHE = 0.3e-6  # a load that the L2 cache has
L1 = CACHE / 4  # a load that the L1 cache has
SCAN = 0.15e-6  # a scan over a block of 512
LAUNCH = 2.0e-6  # from the end of a kernel to the first instruction of the next
#: Sizes of the kernels.
TILE = 4096
THREADS = 512
BLOCKS = 2 * MULTIPROCESSORS


@dataclass(frozen=True)
class Code:
    """What differs between the two. Instructions are of a lane, counted in the code for sm_90."""

    instructions: dict[int, float]  # of the sweep, an entry, by bytes of a score
    waits_a_tile: float  # of a block in the sweep, with the next tile's loads not under way
    sample: dict[int, tuple[int, int]]  # most keys by bytes of a score: usual, from 2**28 entries
    search_a_tile: float  # of the tensor in a list
    fixup_share: tuple[int, int]  # of the fixup: tiles at once, by so many threads in two loads
    record_waits: int  # round trips for where the candidates are
    tensors_a_store: int


BEFORE = Code(
    instructions={2: 72, 4: 72},
    waits_a_tile=2 * MEMORY + SCAN + CACHE,  # loads, scan, atomic, scores again
    sample={2: (2**15, 2**15), 4: (2**15, 2**15)},
    search_a_tile=L1,  # a step of a binary search
    fixup_share=(1, 16),  # a warp a tile, one load at a time
    record_waits=1,
    tensors_a_store=56,
)
NOW = Code(
    instructions={2: 46, 4: 62},
    waits_a_tile=0.0,
    sample={2: (2**16, 2**17), 4: (2**15, 2**17)},
    search_a_tile=0.0,
    fixup_share=(16, THREADS),
    record_waits=0,  # the next batch is known
    tensors_a_store=340,
)


@dataclass(frozen=True)
class Case:
    """A selection in a list of tensors whose masks have the dtype of the scores."""

    name: str
    entries: int
    size: int  # bytes of a score
    tensors: int = 1
    repeated: bool = False
    product: bool = False

    @property
    def bytes(self) -> int:
        """What must move: scores, old mask, mask, product."""
        return self.entries * self.size * (2 + self.repeated + self.product)


CASES = (
    Case("2^26 fp32, first", 2**26, 4),
    Case("2^26 fp32, first, with product", 2**26, 4, product=True),
    Case("2^26 fp32, again", 2**26, 4, repeated=True),
    Case("2^26 bf16, first", 2**26, 2),
    Case("2^26 bf16, again, with product", 2**26, 2, repeated=True, product=True),
    Case("226 tensors, 1B fp32, first", 10**9, 4, tensors=226),
    Case("226 tensors, 7B bf16, first", 7 * 10**9, 2, tensors=226),
)


def floor(case: Case) -> float:
    """Seconds for the bytes alone."""
    return case.bytes / BANDWIDTH


def candidates(case: Case, code: Code) -> tuple[int, float]:
    """Keys of the sample, and the candidates that it leaves if half of the entries are pruned."""
    usual, huge = code.sample[case.size]
    most = huge if case.entries >= 2**28 else usual
    keys = min(max(case.entries // 128, 2**12), most)
    return keys, case.entries * (4 * math.sqrt(keys) + 6) / keys


def phases(case: Case, code: Code) -> dict[str, float]:
    """Seconds of each phase, without launches."""
    tiles = case.entries / TILE
    keys, inside = candidates(case, code)
    passes = 2 if case.size == 2 else 3
    rounds = math.ceil(keys / THREADS / 8)
    one_block = passes * (rounds * CACHE + 3 * SCAN)
    moved = (case.bytes + inside * (case.size + 2)) / BANDWIDTH
    issue = case.entries * code.instructions[case.size] / 32 / ISSUE
    search = code.search_a_tile * math.log2(case.tensors) if case.tensors > 1 else 0.0
    chain = tiles / BLOCKS * (code.waits_a_tile + search)
    radix = inside * case.size / BANDWIDTH + 2 * MEMORY + SCAN + 2 * CACHE
    together, threads = code.fixup_share
    rounds = math.ceil(inside / tiles * together / threads / 2)
    shares = tiles / together / (BLOCKS * THREADS / max(threads, 32))
    looked_at = shares * (code.record_waits + rounds) * MEMORY
    rewritten = shares * rounds * MEMORY * (case.product or case.repeated)
    ties = 0.0
    if case.size == 2:  # several entries have the threshold's key
        ties = looked_at + tiles / 8 / THREADS * (CACHE + SCAN)
    read = inside * (case.size + 2) / BANDWIDTH
    stores = math.ceil(case.tensors / code.tensors_a_store) if case.tensors > 1 else 0
    return {
        "table of tensors": stores * LAUNCH,
        "sample and its ranks": MEMORY + one_block,
        "sweep": max(moved, issue, chain),
        "radix passes": passes * radix,
        "ties and fixup": ties + looked_at + rewritten + read + 2 * MEMORY,
        "launches": (6 + passes) * LAUNCH,
    }


#: N:M, rows and blocks: a tensor of 4096 x 4096 that is pruned for the first time by magnitude,
#: with a mask of its dtype. The product, where there is one, is with what is ranked.
SIDE = 4096
ENTRIES = SIDE * SIDE
NAMES = {4: "fp32", 2: "bf16"}
#: Instructions of a lane, counted in what cuobjdump shows of the code that nvcc 13.0 makes for
#: sm_90, along the path without old mask and factor, by bytes of an entry; of bf16 with a stand-in
#: for torch's type. Predicated ones count, as they are issued. Those of N:M and of writing blocks
#: are without the product and with it.
NM = {4: (38.25, 41.25), 2: (42.0, 46.0)}  # an entry, at m = 4
ROW_PASS = {4: 51.0, 2: 53.0}  # an entry
ROW_WRITE = {4: 61.0, 2: 62.0}  # an entry
BLOCK_WRITE = {4: (77.0, 79.5), 2: (77.25, 79.75)}  # an entry
BLOCK_NORM = {4: {16: 519, 4: 450, 1: 396}, 2: {16: 537, 4: 452, 1: 397}}  # a column, by its height
#: Threads of a multiprocessor, by the registers of that code.
NM_THREADS = 1024
ROW_THREADS = 1024
NORM_THREADS = {4: 768, 2: 1024}
WRITE_THREADS = 1280


@dataclass(frozen=True)
class Kernel:
    """One launch.

    Attributes:
        name: of the operator and what it is given.
        moved: bytes an entry, each once.
        instructions: of a lane, an entry.
        waits: seconds that a thread waits for an entry of its share.
        threads: of a multiprocessor.
    """

    name: str
    moved: float
    instructions: float
    waits: float
    threads: int

    @property
    def floor(self) -> float:
        """Seconds for the bytes alone."""
        return ENTRIES * self.moved / BANDWIDTH

    @property
    def parts(self) -> dict[str, float]:
        """Seconds that each would take if it were alone; they overlap."""
        return {
            "bytes": self.floor,
            "instructions": ENTRIES * self.instructions / 32 / ISSUE,
            "waits": ENTRIES / (MULTIPROCESSORS * self.threads) * self.waits,
        }

    @property
    def limit(self) -> str:
        """The longest of the parts."""
        return max(self.parts, key=lambda name: self.parts[name])

    @property
    def seconds(self) -> float:
        """The longest, and the launch."""
        return self.parts[self.limit] + LAUNCH


def nm_kernel(size: int, product: bool) -> Kernel:
    """nm_masks or nm_prune, 2:4: a thread has one vector, a run, in flight."""
    name = f"nm_{'prune' if product else 'masks'}, 2:4, {NAMES[size]}"
    return Kernel(name, size * (2 + product), NM[size][product], MEMORY / 4, NM_THREADS)


def row_kernel(size: int, product: bool) -> Kernel:
    """row_masks or row_prune: a block takes a row, which its L1 cache has after the first pass.

    Its loads come one after the other. Each pass has three barriers or scans. At 16 bits several
    entries of a row have the threshold's key, so that its ties are counted and the last is found.
    """
    name = f"row_{'prune' if product else 'masks'}, {NAMES[size]}"
    passes, ties = (2, 1) if size == 2 else (3, 0)  # 11 bits a pass
    instructions = (passes + ties) * ROW_PASS[size] + ROW_WRITE[size]
    loads = passes - 1 + 2 * ties + 1 + product  # from L1: passes, ties, the score again, t
    scans = (3 * passes + ties) * SCAN / (SIDE / THREADS)
    waits = MEMORY + loads * L1 + scans
    return Kernel(name, size * (2 + product), instructions, waits, ROW_THREADS)


def block_norm_kernel(size: int, height: int, width: int) -> Kernel:
    """block_norms: a lane takes a column of a block, with all of its loads in flight."""
    return Kernel(
        f"block_norms, {height} x {width}, {NAMES[size]}",
        size + 8 / (height * width),
        BLOCK_NORM[size][height] / height,
        MEMORY / height,
        NORM_THREADS[size],
    )


def block_write_kernel(size: int, product: bool) -> Kernel:
    """block_masks or block_prune, of blocks of 4 x 4: of each entry its block's mask is loaded, the
    mask stored, then t loaded.
    """
    name = f"block_{'prune' if product else 'masks'}, 4 x 4, {NAMES[size]}"
    moved = size * (1 + 2 * product) + 1 / 16
    return Kernel(name, moved, BLOCK_WRITE[size][product], L1 + MEMORY * product, WRITE_THREADS)


KERNELS = (
    *(nm_kernel(size, product) for product in (False, True) for size in NAMES),
    *(row_kernel(size, product) for product in (False, True) for size in NAMES),
    *(block_norm_kernel(size, *block) for block in ((16, 16), (4, 4), (1, 4)) for size in NAMES),
    *(block_write_kernel(size, product) for product in (False, True) for size in NAMES),
)


def kernel_row(kernel: Kernel) -> list[str]:
    """Its cells in the table of docs/design.md."""
    return [
        kernel.name,
        f"{kernel.moved:.3g}",
        f"{kernel.instructions:.0f}",
        f"{kernel.floor * 1e6:.0f}",
        f"{kernel.seconds * 1e6:.0f}",
        f"{kernel.seconds / kernel.floor:.2f}",
        kernel.limit,
    ]


def block_launches(units: int) -> int:
    """Of a first block_structured with so many blocks: norms, a selection of float64, which makes a
    mask of the norms, one of bool from that, and block_prune.
    """
    if units <= 2**15:
        selection = 1
    elif units <= 2**20:
        selection = 3
    else:
        selection = 12  # six radix passes
    return 3 + selection


def kernel_table() -> Table:
    """The kernels of N:M, rows and blocks."""
    result = Table(title="4096 x 4096 on an H100, by arithmetic; nothing is measured")
    result.add_column("launch", no_wrap=True)
    for column in ("bytes", "instr.", "floor, µs", "µs", "x floor"):
        result.add_column(column, justify="right")
    result.add_column("limited by", no_wrap=True)
    for kernel in KERNELS:
        result.add_row(*kernel_row(kernel))
    return result


def table() -> Table:
    """The times and what the sweep waits for."""
    result = Table(title="Arithmetic for an H100; nothing is measured")
    for column in ("selection", "floor, µs", "before", "x floor", "now", "x floor"):
        result.add_column(column, justify="left" if column == "selection" else "right")
    for case in CASES:
        least = floor(case)
        row = [case.name, f"{least * 1e6:.0f}"]
        for code in (BEFORE, NOW):
            total = sum(phases(case, code).values())
            row += [f"{total * 1e6:.0f}", f"{total / least:.2f}"]
        result.add_row(*row)
    return result


def main() -> None:
    """Print the table, or the phases of each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--phases", action="store_true", help="the parts of each time")
    arguments = parser.parse_args()
    console = Console()
    console.print(table())
    console.print(kernel_table())
    if arguments.phases:
        for case in CASES:
            for name, code in (("before", BEFORE), ("now", NOW)):
                parts = ", ".join(f"{k} {v * 1e6:.1f}" for k, v in phases(case, code).items())
                console.print(f"{case.name}, {name}: {parts}", highlight=False)
        for kernel in KERNELS:
            parts = ", ".join(f"{k} {v * 1e6:.1f}" for k, v in kernel.parts.items())
            console.print(f"{kernel.name}: {parts}", highlight=False)


if __name__ == "__main__":
    main()
