"""Tables of a result: which records are in one, and how a figure is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from harness.records import FASTPRUNE, FLOOR, UPSTREAM, Record, Result, Timing

#: The cases of the short table, by how their names go on after the device.
HEADLINE = (
    "local/dense/float32/10000/normal/50%",
    "local/dense/float32/1048576/normal/50%",
    "local/dense/float32/16777216/normal/50%",
    "iterative/half-pruned/float32/16777216/normal/50%",
    "structured/dim0/float32/16777216/normal/50%",
    "random/unstructured/float32/16777216/normal/50%",
    "global/dense/float32/16777216/normal/50%",
    "masked_mul/forward/float32/1048576/normal/50%",
    "masked_mul/backward/float32/1048576/normal/50%",
    "masked_mul/forward/float32/16777216/normal/50%",
    "hook/hook/float32/4096/normal/50%",
    "hook/hook/float32/16777216/normal/50%",
    "model/minilm-global/float32/",
    "model/resnet50-global/float32/",
    "model/llama-1b-local/bfloat16/",
)

#: The short table of the life of a pruned model.
LIVING = (
    "eval-batch1/float32/4194304/",
    "eval-batch32/float32/4194304/",
    "train-sgd-batch32/float32/4194304/",
    "train-adamw-batch32/float32/4194304/",
    "train-adamw-batch256/float32/4194304/",
)

_WHAT = {
    "local/dense": "`l1_unstructured`",
    "local/many": "`local_unstructured`",
    "local/many-half-pruned": "`local_unstructured`, half pruned before",
    "iterative/half-pruned": "`l1_unstructured`, half pruned before",
    "mask/dense": "mask only",
    "mask/half-pruned": "mask only, half pruned before",
    "structured/dim0": "`ln_structured`, first dim",
    "structured/last-dim": "`ln_structured`, last dim",
    "structured/cubes-dim0": "`ln_structured`, n = 3, first dim",
    "structured/cubes-last-dim": "`ln_structured`, n = 3, last dim",
    "structured/mask-dim0": "mask only, norms of the first dim",
    "structured/mask-last-dim": "mask only, norms of the last dim",
    "random/unstructured": "`random_unstructured`",
    "random/structured-dim0": "`random_structured`, first dim",
    "custom/dense": "`custom_from_mask`",
    "custom/again": "`custom_from_mask`, upon the same mask",
    "global/dense": "`global_unstructured`",
    "global/half-pruned": "`global_unstructured`, half pruned before",
    "global/mixed": "`global_unstructured`, half of them bfloat16",
    "nm/2:4": "`nm_prune`, 2:4",
    "nm/2:4-first-dim": "`nm_prune`, 2:4 along the first dim",
    "nm/8:16": "`nm_prune`, 8:16",
    "nm/2:4-factor": "`nm_prune`, 2:4, with a factor",
    "nm/2:4-half-pruned": "`nm_prune`, 2:4, half pruned before",
    "nm/2:4-both": "`nm_prune`, 2:4 in rows and columns",
    "rows/rows": "`row_prune`",
    "rows/rows-factor": "`row_prune`, with a factor",
    "rows/rows-half-pruned": "`row_prune`, half pruned before",
    "rows/columns": "`row_prune`, columns",
    "rows/entries-factor": "`topk_prune`, with a factor",
    "blocks/16x16": "`block_structured`, 16 x 16",
    "blocks/4x4": "`block_structured`, 4 x 4",
    "blocks/1x4": "`block_structured`, 1 x 4",
    "blocks/tied": "`tied_structured`, 16 heads in 4 tensors",
    "masked_mul/forward": "`masked_mul`",
    "masked_mul/backward": "`masked_mul`, backward",
    "masked_mul/forward-bool-mask": "`masked_mul`, bool mask",
    "masked_muls_/bool": "`masked_muls_`, bool masks",
    "masked_muls_/packed": "`masked_muls_`, packed masks",
    "hook/hook": "forward pre-hook",
    "hook/bool": "forward pre-hook, bool mask",
    "hook/layer": "forward of a pruned linear layer",
    "life/eval-batch1": "forward, batch 1",
    "life/eval-batch32": "forward, batch 32",
    "life/eval-compiled-batch1": "forward, compiled, batch 1",
    "life/eval-compiled-batch32": "forward, compiled, batch 32",
    "life/train-sgd-batch32": "training step, SGD, batch 32",
    "life/train-sgd-batch256": "training step, SGD, batch 256",
    "life/train-adamw-batch32": "training step, AdamW (fused), batch 32",
    "life/train-adamw-batch256": "training step, AdamW (fused), batch 256",
    "life/train-adamw-unfused-batch32": "training step, AdamW (not fused), batch 32",
    "life/train-adamw-unfused-batch256": "training step, AdamW (not fused), batch 256",
}

#: The family whose other contenders, what a user could write instead, have a table of their own.
_WITH_ALTERNATIVES = "mask"

#: A median is marked as uncertain if its samples spread by more.
LARGE_SPREAD = 0.25
MARK = "~"

_SPREAD_NOTE = (
    f"{MARK}: the samples of this time, or of one that it is computed from, spread by more than "
    f"{LARGE_SPREAD:.0%}; it is uncertain by about as much."
)
_BELOW_FLOOR = {
    "cpu": (
        "x floor below 1: the floor is no bound but a measured time, that of PyTorch's `clone` or "
        "`weight * mask` into fresh memory in the same run. fastprune can take less where it has "
        "Linux map the pages of a large output (from 32 MiB) many at a time, reads a bool mask at "
        "one byte an entry, or converts 16-bit floats with wider instructions."
    ),
    "cuda": (
        "x floor below 1: the floor is the time that the bytes take at the rate of a large copy in "
        "the same run, which a case whose tensors fit the L2 cache can beat."
    ),
}
_FLOOR_IN_A_GRAPH = (
    "x floor -: the floor of this case was a copy that a CUDA graph repeats, which is slower than "
    "one alone; later runs time it alone."
)


@dataclass(frozen=True)
class Table:
    """Headings and rows of text; the first column is to the left, the others to the right.

    Attributes:
        notes: sentences that explain what some of the cells show.
    """

    title: str
    headings: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def families(result: Result, device: str) -> list[str]:
    """The families with records on a device, in the order they ran."""
    return list(dict.fromkeys(r.family for r in result.records if r.device == device))


def devices(result: Result) -> list[str]:
    """The devices with records, in the order they ran."""
    return list(dict.fromkeys(record.device for record in result.records))


def default_device(result: Result) -> str:
    """The GPU if it has records, or else the CPU."""
    return "cuda" if "cuda" in devices(result) else "cpu"


def make_table(result: Result, selection: str, device: str | None = None) -> Table:
    """A table of a result.

    Args:
        result: to take the figures from.
        selection: "headline", "alternatives", "memory", "kernels", or a family.
        device: whose records; default: those of the GPU if there are any.

    Raises:
        ValueError: there is no such selection, or it has no records.
    """
    device = device or default_device(result)
    records = [record for record in result.records if record.device == device]
    special: dict[str, Callable[[list[Record]], Table]] = {
        "headline": _headline,
        "alternatives": _alternatives,
        "memory": _memory,
        "kernels": _kernels,
        "living": lambda all_of_them: _life(_living(all_of_them)),
        "life": lambda all_of_them: _life([r for r in all_of_them if r.family == "life"]),
    }
    if selection in special:
        table = special[selection](records)
    else:
        table = _family(selection, [r for r in records if r.family == selection])
    if not table.rows:
        raise ValueError(f"no figures on {device} for the selection {selection}")
    return table


def _headline(records: list[Record]) -> Table:
    headings = ["Operation", "Elements", "dtype", "upstream", "fastprune", "Speed-up", "x floor"]
    chosen = [
        record
        for prefix in HEADLINE
        for record in records
        if record.name.startswith(f"{record.device}/{prefix}")
    ]
    rows = [
        [
            describe(record),
            count(record.numel),
            record.dtype,
            _time(record, UPSTREAM),
            _time(record, FASTPRUNE),
            _speedup(record),
            _ratio_to_floor(record),
        ]
        for record in chosen
    ]
    return Table("headline", headings, rows, _notes(chosen))


def _family(family: str, records: list[Record]) -> Table:
    headings = ["Operation", "Elements", "dtype", "Data", "Amount", "upstream", "spread"]
    headings += ["fastprune", "spread", "Speed-up", "Floor", "x floor", "GB/s"]
    on_gpu = any(record.device == "cuda" for record in records)
    if on_gpu:
        headings += ["host, upstream", "host, fastprune"]
    others = [] if family == _WITH_ALTERNATIVES else _others(records)
    headings += others
    rows = []
    for record in records:
        row = [describe(record), count(record.numel), record.dtype, record.data]
        row += [f"{record.amount * 100:g}%"]
        row += [_time(record, UPSTREAM), _spread(record, UPSTREAM)]
        row += [_time(record, FASTPRUNE), _spread(record, FASTPRUNE), _speedup(record)]
        row += [_floor(record), _ratio_to_floor(record)]
        row += [_mark(record, FASTPRUNE) + _three_digits(record.bytes_per_second / 1e9)]
        if on_gpu:
            row += [_host(record, UPSTREAM), _host(record, FASTPRUNE)]
        rows.append(row + [_time(record, name) for name in others])
    return Table(family, headings, rows, _notes(records))


def _living(records: Iterable[Record]) -> list[Record]:
    return [
        r for r in records if r.name.startswith(tuple(f"{r.device}/life/{case}" for case in LIVING))
    ]


def _life(records: list[Record]) -> Table:
    """Every form of a pruned model over the same model without pruning."""
    others = _others(records)
    headings = ["Operation", "Elements", "dense", "spread", "`cached` or `in_place`"]
    headings += [UPSTREAM, *others]
    rows = []
    for record in records:
        row = [describe(record), count(record.numel), _time(record, FLOOR), _spread(record, FLOOR)]
        rows.append(row + [_of_floor(record, name) for name in (FASTPRUNE, UPSTREAM, *others)])
    return Table(
        "life", headings, rows, _spread_notes(records, FASTPRUNE, UPSTREAM, FLOOR, *others)
    )


def _alternatives(records: list[Record]) -> Table:
    records = [r for r in records if r.family == _WITH_ALTERNATIVES and _others([r])]
    others = _others(records)
    headings = ["Mask of", "dtype", "Data", "Amount", FASTPRUNE, UPSTREAM, *others]
    rows = []
    for record in records:
        row = [count(record.numel), record.dtype, record.data, f"{record.amount * 100:g}%"]
        rows.append(row + [_time(record, name) for name in (FASTPRUNE, UPSTREAM, *others)])
    notes = _spread_notes(records, FASTPRUNE, UPSTREAM, *others)
    return Table("alternatives", headings, rows, notes)


def _others(records: Iterable[Record]) -> list[str]:
    """The contenders beside the usual three, in the order they ran."""
    main = (FASTPRUNE, UPSTREAM, FLOOR)
    known = (record.contenders | record.skipped for record in records)
    return list(dict.fromkeys(name for names in known for name in names if name not in main))


def _memory(records: Iterable[Record]) -> Table:
    headings = ["Operation", "Elements", "dtype", "upstream", "fastprune", "Share"]
    rows = []
    for record in records:
        ours, theirs = record.peaks.get(FASTPRUNE), record.peaks.get(UPSTREAM)
        if ours is None:
            continue
        row = [describe(record), count(record.numel), record.dtype]
        row += [_size(theirs), _size(ours), f"{ours / theirs:.0%}" if theirs else "-"]
        rows.append(row)
    return Table("memory", headings, rows)


def _kernels(records: Iterable[Record]) -> Table:
    headings = ["Operation", "Elements", "dtype", "Kernel", "Time", "Share"]
    rows = []
    for record in records:
        whole = sum(record.kernels.values())
        what = [describe(record), count(record.numel), record.dtype]
        for kernel, time in record.kernels.items():
            rows.append([*what, kernel, seconds(time), f"{time / whole:.0%}"])
            what = ["", "", ""]
    return Table("kernels", headings, rows)


def describe(record: Record) -> str:
    """What a record is of, in words."""
    if record.family == "model":
        model, _, scope = record.variant.rpartition("-")
        return f"{model}, {scope}"
    what = _WHAT[f"{record.family}/{record.variant}"]
    return f"{what}, {record.tensors} tensors" if record.tensors > 1 else what


def seconds(value: float) -> str:
    """A time to three digits: "12.3 µs"."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 0.9995:
            return f"{_three_digits(value * factor)} {unit}"
    return f"{_three_digits(value * 1e9)} ns"


def count(number: int) -> str:
    """A number of elements to three digits: "16.8M"."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if number / factor >= 0.9995:
            return f"{number / factor:.3g}{unit}"
    return str(number)


def times(ratio: float) -> str:
    """A speed-up: "12.3x"."""
    return f"{_three_digits(ratio)}x"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}"


def _size(number: int | None) -> str:
    return "-" if number is None else f"{number / 2**20:.1f} MiB"


def _timing(record: Record, contender: str) -> Timing | None:
    return record.contenders.get(contender)


def _time(record: Record, contender: str) -> str:
    timing = _timing(record, contender)
    return "-" if timing is None else _mark(record, contender) + seconds(timing.median)


def _speedup(record: Record) -> str:
    if record.speedup is None:
        return "-"
    return _mark(record, UPSTREAM, FASTPRUNE) + times(record.speedup)


def _has_floor(record: Record) -> bool:
    return record.device != "cuda" or record.contenders[FLOOR].loops == 1


def _floor(record: Record) -> str:
    return _time(record, FLOOR) if _has_floor(record) else "-"


def _ratio_to_floor(record: Record) -> str:
    if not _has_floor(record):
        return "-"
    return _mark(record, FASTPRUNE, FLOOR) + _three_digits(record.ratio_to_floor)


def _of_floor(record: Record, contender: str) -> str:
    timing = _timing(record, contender)
    if timing is None or timing.of_floor is None:
        return "-"
    return _mark(record, contender, FLOOR) + times(timing.of_floor)


def _mark(record: Record, *contenders: str) -> str:
    """The mark of what is computed from these times, if one of them is uncertain."""
    timings = (_timing(record, name) for name in contenders)
    return MARK if any(t is not None and (t.spread or 0) > LARGE_SPREAD for t in timings) else ""


def _notes(records: Sequence[Record]) -> list[str]:
    """What explains marks, and ratios to the floor that are missing or below 1."""
    known = [r for r in records if _has_floor(r)]
    below = {r.device for r in known if float(_three_digits(r.ratio_to_floor)) < 1}
    explained = [note for device, note in _BELOW_FLOOR.items() if device in below]
    if len(known) < len(records):
        explained.append(_FLOOR_IN_A_GRAPH)
    return _spread_notes(records, FASTPRUNE, UPSTREAM, FLOOR) + explained


def _spread_notes(records: Iterable[Record], *contenders: str) -> list[str]:
    return [_SPREAD_NOTE] if any(_mark(record, *contenders) for record in records) else []


def _spread(record: Record, contender: str) -> str:
    timing = _timing(record, contender)
    return "-" if timing is None or timing.spread is None else f"{timing.spread:.0%}"


def _host(record: Record, contender: str) -> str:
    timing = _timing(record, contender)
    return "-" if timing is None or timing.host is None else seconds(timing.host)
