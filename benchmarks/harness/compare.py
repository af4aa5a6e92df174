"""What got faster or slower between two result files, beyond the noise.

The speed of a machine varies from run to run. So a case counts as changed only if fastprune changed
against three things at once: its earlier time (corrected for the drift of the whole machine), the
floor of the same run, and upstream in the same run. The smallest of the three changes is reported.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from harness.console import show
from harness.records import FASTPRUNE, FLOOR, UPSTREAM, Record, Result
from harness.tables import Table, seconds

#: Two runs of one build on one machine can differ by this much in a case.
LEAST_NOISE = 0.15


@dataclass(frozen=True)
class Change:
    """A case in two runs.

    Attributes:
        old: before.
        new: after.
        factor: by how much fastprune's time grew, from the ratios that agree least; 1 where they
            do not even agree on faster or slower.
        noise: relative change that means nothing.
    """

    old: Record
    new: Record
    factor: float
    noise: float

    @property
    def is_real(self) -> bool:
        return abs(math.log(self.factor)) > math.log1p(self.noise)


def compare(old: Result, new: Result) -> list[Change]:
    """Each case that both runs have."""
    pairs = _pairs(old, new)
    drift = drifts(old, new)
    return [_change(*pair, drift[pair[1].device]) for pair in pairs]


def drifts(old: Result, new: Result) -> dict[str, float]:
    """By device, by how much everything but fastprune got slower: the median over all cases."""
    pairs = _pairs(old, new)
    return {
        device: statistics.median(_drift(*pair) for pair in pairs if pair[1].device == device)
        for device in dict.fromkeys(record.device for _, record in pairs)
    }


def _pairs(old: Result, new: Result) -> list[tuple[Record, Record]]:
    before = {record.name: record for record in old.records}
    return [(before[record.name], record) for record in new.records if record.name in before]


def _growth(old: Record, new: Record, contender: str) -> float | None:
    """New time over old time, if both runs have the contender."""
    if contender not in old.contenders or contender not in new.contenders:
        return None
    return new.contenders[contender].median / old.contenders[contender].median


def _drift(old: Record, new: Record) -> float:
    """By how much everything but fastprune got slower in one case."""
    growths = (_growth(old, new, name) for name in (FLOOR, UPSTREAM))
    return statistics.geometric_mean([growth for growth in growths if growth is not None])


def _change(old: Record, new: Record, drift: float) -> Change:
    own = _growth(old, new, FASTPRUNE)
    assert own is not None
    references = [drift, _growth(old, new, FLOOR), _growth(old, new, UPSTREAM)]
    factors = [own / reference for reference in references if reference is not None]
    # The factor nearest to 1; or 1 if they disagree on faster or slower.
    factor = max(min(factors), 1.0) * min(max(factors), 1.0)
    spreads = (record.contenders[FASTPRUNE].spread or 0.0 for record in (old, new))
    # If the references changed too, something else disturbed this case.
    noise = math.hypot(*spreads, math.log(_drift(old, new)))
    return Change(old, new, factor, max(noise, LEAST_NOISE))


def changes_table(changes: Sequence[Change]) -> Table:
    """The changes beyond the noise, the worst first."""
    headings = ["Case", "before", "now", "Change", "noise"]
    rows = []
    for change in sorted(changes, key=lambda change: -change.factor):
        times = (r.contenders[FASTPRUNE].median for r in (change.old, change.new))
        verdict = "slower" if change.factor > 1 else "faster"
        size = max(change.factor, 1 / change.factor)
        row = [change.new.name, *map(seconds, times), f"{size:.2f}x {verdict}"]
        rows.append([*row, f"{change.noise:.0%}"])
    return Table("changes beyond the noise", headings, rows)


def report_changes(
    console: Console, old: Result, new: Result, max_slowdown: float | None = None
) -> bool:
    """Print what changed; returns whether nothing got slower by more than ``max_slowdown``."""
    changes = compare(old, new)
    for part in ("gpu", "cpu", "threads", "torch"):
        if old.machine[part] != new.machine[part]:
            console.print(f"note: {part} was {old.machine[part]}, is {new.machine[part]}")
    for device, drift in drifts(old, new).items():
        console.print(f"{device}: upstream and floor took {drift:.2f} times as long as before")
    real = [change for change in changes if change.is_real]
    if not changes:
        console.print("no case is in both runs")
        return max_slowdown is None
    if real:
        show(console, changes_table(real))
    slower = sum(change.factor > 1 for change in real)
    console.print(
        f"{len(changes)} cases compared: {slower} slower, {len(real) - slower} faster, "
        f"{len(changes) - len(real)} without a change beyond the noise"
    )
    too_slow = [c for c in real if max_slowdown is not None and c.factor > max_slowdown]
    if too_slow:
        console.print(f"{len(too_slow)} slower by more than {max_slowdown:g} times")
    return not too_slow
