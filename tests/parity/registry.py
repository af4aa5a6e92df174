"""A case is a function of the library under test, and must return the same for both."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.utils.prune as upstream

import fastprune

from .equal import difference

Run = Callable[[ModuleType], Any]


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    group: str
    title: str
    run: Run


@dataclass(frozen=True)
class Outcome:
    """What a case returned, or what it raised, and what it warned of."""

    value: Any = None
    error: BaseException | None = None
    warned: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return "works" if self.error is None else f"`{type(self.error).__name__}`"


@dataclass(frozen=True)
class Verdict:
    """A row of the table: both outcomes, and what is wrong with ours."""

    case: Case
    upstream: Outcome
    fastprune: Outcome
    wrong: str | None

    @property
    def ours(self) -> str:
        if self.wrong is not None:
            return f"**{self.wrong}**"
        both_work = self.upstream.error is None and self.fastprune.error is None
        return "same result" if both_work else str(self.fastprune)


CASES: list[Case] = []


def case(group: str, title: str) -> Callable[[Run], Run]:
    """Adds a function to the cases."""

    def add(run: Run) -> Run:
        CASES.append(Case(group, title, run))
        return run

    return add


def outcome(run: Run, library: ModuleType) -> Outcome:
    torch.manual_seed(0)
    value, raised = None, None
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            value = run(library)
        except Exception as error:
            raised = error
    return Outcome(value, raised, frozenset(str(w.message) for w in seen))


@functools.cache
def verdict_of(case: Case) -> Verdict:
    """Run a case with both libraries."""
    theirs, ours = outcome(case.run, upstream), outcome(case.run, fastprune)
    return Verdict(case, theirs, ours, what_is_wrong(ours, theirs))


def what_is_wrong(ours: Outcome, theirs: Outcome) -> str | None:
    """Where our outcome is not as good as upstream's; None if nowhere."""
    if theirs.error is None:
        if ours.error is not None:
            return f"{type(ours.error).__name__}: {ours.error}"
        wrong = difference(ours.value, theirs.value)
        if wrong is None and ours.warned - theirs.warned:
            wrong = f"warns: {min(ours.warned - theirs.warned)}"
        return wrong
    if ours.error is not None and not isinstance(ours.error, type(theirs.error)):
        return f"{type(ours.error).__name__} instead of {type(theirs.error).__name__}"
    return None
