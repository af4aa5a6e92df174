"""Every case with upstream as it is, and with upstream under ``fastprune.patch()``."""

import pytest
import torch.nn.utils.prune as upstream

import fastprune

from . import table  # noqa: F401 - its cases
from .registry import CASES, Case, outcome, verdict_of, what_is_wrong

#: They take a minute together, and are about the hook, which is the same function as in fastprune.
#: "devices" runs in a process of its own.
SLOW = {"torch.compile", "torch.export", "TorchScript", "ONNX", "compiled", "devices"}


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.group not in SLOW], ids=lambda c: f"{c.group}: {c.title}"
)
def test_case(case: Case) -> None:
    expected = verdict_of(case).upstream
    with fastprune.patch():
        actual = outcome(case.run, upstream)
    wrong = what_is_wrong(actual, expected)
    assert wrong is None, wrong
