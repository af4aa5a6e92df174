"""docs/compatibility.md: every case, and what came of it with both libraries.

``python -m parity.table``, run in tests/, writes it.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import torch

from . import (  # noqa: F401 - their cases
    compiled,
    elsewhere,
    life,
    modules,
    tensors,
    tracing,
    transforms,
)
from .registry import CASES, Verdict, verdict_of

#: In the order of the page.
GROUPS = [
    "torch.func",
    "torch.autograd.functional",
    "forward-mode AD",
    "gradients of masks",
    "autograd",
    "torch.compile",
    "compiled",
    "torch.export",
    "TorchScript",
    "ONNX",
    "torch.fx",
    "modes",
    "dtypes",
    "masks",
    "importance scores",
    "layouts",
    "devices",
    "sparse gradients",
    "tensor subclasses",
    "DTensor",
    "modules of torch.nn",
    "modules of users",
    "parametrizations",
    "methods of users",
    "amounts",
    "global_unstructured",
    "what is left on the module",
    "edits by hand",
    "copies and files",
    "training",
    "errors",
]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"

INTRODUCTION = """# Compatibility with torch.nn.utils.prune

What works with `torch.nn.utils.prune` works with fastprune, and gives the same result. This page is
made by a test that runs each case with both libraries (`tests/parity`) and compares what comes out:
values to the bit, dtypes, layouts, gradients, traced graphs, state dicts.

The native operators take plain tensors on CPU and CUDA, with masks that need no gradient, outside
of tracing, transforms and modes. Everything else takes upstream's own arithmetic. Where upstream
fails, the column says what it raises; fastprune raises the same or works. What differs on purpose
stands in [What differs](differences.md).
"""


def made_with() -> str:
    """The release of torch, without what a build adds to it."""
    return f"Made with torch {torch.__version__.split('+')[0]}."


def render(verdicts: list[Verdict]) -> str:
    """The page."""
    lines = [INTRODUCTION, f"{made_with()} {len(verdicts)} cases.", ""]
    by_group = sorted(verdicts, key=lambda v: GROUPS.index(v.case.group))
    for group, rows in groupby(by_group, key=lambda v: v.case.group):
        lines += [f"## {group}", "", "| case | upstream | fastprune |", "|---|---|---|"]
        lines += [f"| {v.case.title} | {v.upstream} | {v.ours} |" for v in rows]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(render([verdict_of(case) for case in CASES]))
