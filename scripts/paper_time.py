"""What the kernels of N:M and blocks should take on an H100, by arithmetic.

Bytes at the rate of a large copy, instructions at the rate at which multiprocessors issue them,
round trips where a thread has to wait, and a launch. ``python scripts/paper_time.py`` prints the
table of docs/design.md. Nothing in it is measured; a measurement on a GPU replaces it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

#: H100 SXM.
BANDWIDTH = 3.35e12 * 0.9  # bytes a second: a copy loses a tenth of the nominal rate
MULTIPROCESSORS = 132
CLOCK = 1.7e9
ISSUE = 4 * MULTIPROCESSORS * CLOCK  # instructions of a warp, a second
MEMORY = 0.7e-6  # a load from memory under load, or an atomic that returns
L1 = 0.075e-6  # a load that the L1 cache has
LAUNCH = 2.0e-6  # from the end of a kernel to the first instruction of the next
#: N:M and blocks: a tensor of 4096 x 4096 that is pruned for the first time by magnitude,
#: with a mask of its dtype. The product, where there is one, is with what is ranked.
SIDE = 4096
ENTRIES = SIDE * SIDE
NAMES = {4: "fp32", 2: "bf16"}
#: Instructions of a lane, counted in what cuobjdump shows of the code that nvcc 13.0 makes for
#: sm_90, along the path without old mask and factor, by bytes of an entry; of bf16 with a stand-in
#: for torch's type. Predicated ones count, as they are issued. Those of N:M and of writing blocks
#: are without the product and with it.
NM = {4: (38.25, 41.25), 2: (42.0, 46.0)}  # an entry, at m = 4
BLOCK_WRITE = {4: (77.0, 79.5), 2: (77.25, 79.75)}  # an entry
BLOCK_NORM = {4: {16: 519, 4: 450, 1: 396}, 2: {16: 537, 4: 452, 1: 397}}  # a column, by its height
#: Threads of a multiprocessor, by the registers of that code.
NM_THREADS = 1024
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
    """The kernels of N:M and blocks."""
    result = Table(title="4096 x 4096 on an H100, by arithmetic; nothing is measured")
    result.add_column("launch", no_wrap=True)
    for column in ("bytes", "instr.", "floor, µs", "µs", "x floor"):
        result.add_column(column, justify="right")
    result.add_column("limited by", no_wrap=True)
    for kernel in KERNELS:
        result.add_row(*kernel_row(kernel))
    return result


def main() -> None:
    """Print the table, or the phases of each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--phases", action="store_true", help="the parts of each time")
    arguments = parser.parse_args()
    console = Console()
    console.print(kernel_table())
    if arguments.phases:
        for kernel in KERNELS:
            parts = ", ".join(f"{k} {v * 1e6:.1f}" for k, v in kernel.parts.items())
            console.print(f"{kernel.name}: {parts}", highlight=False)


if __name__ == "__main__":
    main()
