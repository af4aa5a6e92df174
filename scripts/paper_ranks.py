"""What a process sends when global_unstructured selects over many, by arithmetic.

The messages are those of python/fastprune/exchange.py, whose sizes tests compare with what 1 to 4
processes sent; the numbers of rounds follow from the keys and places that are told apart.
``python scripts/paper_ranks.py`` prints the table of docs/design.md.
"""

from __future__ import annotations

import math

#: Bytes of messages: int64 numbers.
START = 8 * 4
SUM = 8 * ((1 << 11) + 1)
BIN_BITS = 11


def sample_bytes(processes: int) -> int:
    """Of the keys that one process adds to the sample."""
    return 8 * (2 + max(64, (1 << 15) // processes))


def bytes_sent(processes: int, sums: int) -> int:
    """By one process in one selection, if collectives go around a ring."""
    others = processes - 1
    gathered = (START + sample_bytes(processes)) * others
    return gathered + sums * (2 * SUM * others // processes)


def sums_of(entries: int, key_digits: int) -> int:
    """How many sums there are if ties have to be told apart: the most, but for a missed bracket.

    Args:
        entries: of all tensors.
        key_digits: of 11 bits, from the bracket to one key: 1 for 16-bit floats, 2 for float32.
    """
    sweep, vote = 1, 1
    return sweep + key_digits + math.ceil((entries - 1).bit_length() / BIN_BITS) + vote


def rows() -> list[str]:
    table = [
        "| entries | dtype | processes | rounds | sent by each, KB | read by each, GB |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for entries in (70 * 10**9, 405 * 10**9):
        for dtype, size, digits in (("bfloat16", 2, 1), ("float32", 4, 2)):
            for processes in (8, 64, 1024):
                sums = sums_of(entries, digits)
                sent = bytes_sent(processes, sums) / 1e3
                read = entries * size / processes / 1e9
                table.append(
                    f"| {entries // 10**9}B | {dtype} | {processes} | {2 + sums} | {sent:.0f} "
                    f"| {read:.3g} |"
                )
    return table


if __name__ == "__main__":
    print("\n".join(rows()))
