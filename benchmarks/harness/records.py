"""What a run measured, and the result file that keeps it.

A result file is JSON Lines. Its first line is the header: schema, machine, versions, commit and
settings. Then each case has a line of its own: its record, or why it was skipped, or what failed.
So a rerun changes only the header and the lines of the cases that it ran.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 2

FASTPRUNE = "fastprune"
UPSTREAM = "upstream"
FLOOR = "floor"

_DERIVED = ("speedup", "ratio_to_floor", "bytes_per_second")


@dataclass(frozen=True)
class Timing:
    """How long one contender takes.

    Attributes:
        median: seconds a call.
        spread: interquartile range over median; None for a single sample.
        samples: how many the median is of.
        loops: calls in a sample.
        host: median of the seconds until a call returns to the host; None on the CPU.
        of_floor: median, over the rounds that sampled both, of the time over the floor's.
    """

    median: float
    spread: float | None
    samples: int
    loops: int
    host: float | None = None
    of_floor: float | None = None


@dataclass(frozen=True)
class Record:
    """One case, as measured.

    Attributes:
        bytes: that the work must move at least.
        contenders: timing by contender.
        peaks: by contender, bytes of memory in use above what was in use before the call.
        skipped: by contender, why it was not timed.
        kernels: on a GPU, by kernel that fastprune launches, its seconds a call (kernels.py).

    The others are those of suite.cases.Case.
    """

    name: str
    device: str
    family: str
    variant: str
    dtype: str
    numel: int
    tensors: int
    data: str
    amount: float
    bytes: int
    contenders: dict[str, Timing]
    peaks: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    kernels: dict[str, float] = field(default_factory=dict)

    @property
    def speedup(self) -> float | None:
        """Time of upstream over that of fastprune."""
        upstream = self.contenders.get(UPSTREAM)
        return None if upstream is None else upstream.median / self.contenders[FASTPRUNE].median

    @property
    def ratio_to_floor(self) -> float:
        """Time of fastprune over that of the floor."""
        return self.contenders[FASTPRUNE].median / self.contenders[FLOOR].median

    @property
    def bytes_per_second(self) -> float:
        """The bytes that must move over the time of fastprune."""
        return self.bytes / self.contenders[FASTPRUNE].median


@dataclass(frozen=True)
class Result:
    """One run.

    Attributes:
        machine: what it ran on.
        settings: how it was run.
        records: what was measured.
        skipped: by case, why it was not run.
        failed: by case, what was wrong.
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    records: list[Record]
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def save(result: Result, path: Path) -> None:
    """Write a result file, with the figures derived from the timings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(_rounded(line), ensure_ascii=False) + "\n" for line in _lines(result))
    path.write_text("".join(lines), encoding="utf-8")


def _lines(result: Result) -> Iterator[dict[str, Any]]:
    yield {"schema": SCHEMA, "machine": result.machine, "settings": result.settings}
    for record in result.records:
        line = asdict(record) | {name: getattr(record, name) for name in _DERIVED}
        for timing in line["contenders"].values():
            if timing["of_floor"] is None:  # of runs before there was such a figure
                del timing["of_floor"]
        if not record.kernels:
            del line["kernels"]
        yield line
    for kind in ("skipped", "failed"):
        for name, why in getattr(result, kind).items():
            yield {"name": name, kind: why}


def load(path: Path) -> Result:
    """Read a result file.

    Raises:
        OSError: there is none.
        ValueError: it is not a result file of this schema.
    """
    text = path.read_text(encoding="utf-8")
    try:
        header, *cases = map(json.loads, text.splitlines())
    except ValueError:
        header, cases = _whole(text), []
    if isinstance(header, dict) and header.get("schema") == 1:
        raise ValueError(
            f"{path} is a result file of the older form, one JSON document; "
            f"`python benchmarks/convert.py {path}` writes it as JSON Lines"
        )
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not a result file of schema {SCHEMA}")
    return Result(
        machine=header["machine"],
        settings=header["settings"],
        records=[_record(case) for case in cases if "contenders" in case],
        skipped={case["name"]: case["skipped"] for case in cases if _is_only(case, "skipped")},
        failed={case["name"]: case["failed"] for case in cases if _is_only(case, "failed")},
    )


def _whole(text: str) -> Any:
    """The text as one JSON document; None if it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _is_only(case: dict[str, Any], kind: str) -> bool:
    """Whether a line is of a case without a record, for a reason of this kind."""
    return kind in case and "contenders" not in case


def _record(case: dict[str, Any]) -> Record:
    fields = Record.__dataclass_fields__.keys() - {"kernels"}
    own = {name: case[name] for name in fields} | {"kernels": case.get("kernels", {})}
    own["contenders"] = {name: Timing(**timing) for name, timing in case["contenders"].items()}
    return Record(**own)


def _rounded(value: Any) -> Any:
    """The value with floats of five significant digits: more are noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
