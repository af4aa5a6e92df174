"""What a run found out, and the JSON file that keeps it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1

FASTPRUNE = "fastprune"
UPSTREAM = "upstream"
FLOOR = "floor"


@dataclass(frozen=True)
class Timing:
    """How long one contender takes.

    Attributes:
        median: seconds a call.
        spread: interquartile range over median; None for a single sample.
        samples: how many the median is of.
        loops: calls in a sample.
        host: median of the seconds until a call returns to the host; None on the CPU.
    """

    median: float
    spread: float | None
    samples: int
    loops: int
    host: float | None = None


@dataclass(frozen=True)
class Record:
    """One case, as measured.

    Attributes:
        bytes: that must move, whoever does the work.
        contenders: timing by contender.
        peaks: by contender, bytes of memory in use above what was in use before the call.
        skipped: by contender, why it was not timed.

    The others are those of cases.Case.
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
        """What must move over the time of fastprune."""
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
    """Write a result file, with what is derived from the timings beside them."""
    derived = ("speedup", "ratio_to_floor", "bytes_per_second")
    content = {
        "schema": SCHEMA,
        "machine": result.machine,
        "settings": result.settings,
        "cases": [
            asdict(record) | {name: getattr(record, name) for name in derived}
            for record in result.records
        ],
        "skipped": result.skipped,
        "failed": result.failed,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(content), indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Result:
    """Read a result file.

    Raises:
        OSError: there is none.
        ValueError: it is not a result file of this schema.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no result file of schema {SCHEMA}")
    return Result(
        machine=content["machine"],
        settings=content["settings"],
        records=[_record(case) for case in content["cases"]],
        skipped=content["skipped"],
        failed=content["failed"],
    )


def _record(case: dict[str, Any]) -> Record:
    own = {name: case[name] for name in Record.__dataclass_fields__}
    own["contenders"] = {name: Timing(**timing) for name, timing in case["contenders"].items()}
    return Record(**own)


def _rounded(value: Any) -> Any:
    """The value with floats of five significant digits: more are noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
