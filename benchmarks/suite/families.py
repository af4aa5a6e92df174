"""Every family, in the order of the tables, and through them every case."""

from __future__ import annotations

from dataclasses import replace

from suite import api, channels, elementwise, grouped, life, topk
from suite.cases import Case
from suite.workload import Workload

FAMILIES = {
    "local": topk.LOCAL,
    "iterative": topk.ITERATIVE,
    "mask": topk.MASK,
    "structured": channels.STRUCTURED,
    "random": api.RANDOM,
    "custom": api.CUSTOM,
    "global": topk.GLOBAL,
    "nm": grouped.NM,
    "rows": grouped.ROWS,
    "blocks": grouped.BLOCKS,
    "masked_mul": elementwise.MASKED_MUL,
    "masked_muls_": elementwise.MASKED_MULS_IN_PLACE,
    "hook": api.HOOK,
    "model": api.MODEL,
    "life": life.LIFE,
}


def all_cases(device: str, dtype: str | None = None) -> list[Case]:
    """Every case for a device; with a dtype, every case in that dtype."""
    cases = [case for family in FAMILIES.values() for case in family.cases(device)]
    if dtype is not None:
        cases = [replace(case, dtype=dtype) for case in cases if case.dtype in ("float32", dtype)]
    return list({case.name: case for case in cases}.values())


def build(case: Case) -> Workload:
    """Make the data of a case and what works on them.

    Raises:
        ImportError: the data come with a package that is not installed.
    """
    return FAMILIES[case.family].build(case)
