"""Every case with both libraries, and the table that they make."""

import pytest

from .registry import CASES, Case, verdict_of
from .table import PAGE, made_with, render


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.group}: {c.title}")
def test_case(case: Case) -> None:
    verdict = verdict_of(case)
    assert verdict.wrong is None, verdict.wrong


def test_table_in_the_docs() -> None:
    if made_with() not in PAGE.read_text():
        pytest.skip(f"{PAGE.name} was not made with this torch")
    made = render([verdict_of(case) for case in CASES])
    assert PAGE.read_text() == made, "run `make compatibility`"
