"""The pages of the methods: every snippet runs, and every call that the table names exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import fastprune

DOCS = Path(__file__).resolve().parents[2] / "docs" / "methods"
PAGES = sorted(path.name for path in DOCS.glob("*.md") if path.name != "README.md")


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_snippets_run(page: str) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE
    )
    assert blocks
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)


def test_every_page_is_listed() -> None:
    listed = re.findall(r"\]\((\w+\.md)\)", (DOCS / "README.md").read_text())
    assert sorted(listed) == PAGES


@pytest.mark.parametrize(
    "peer", ["Wanda", "llm-compressor", "torchao", "apex", "jaxpruner", "coremltools"]
)
def test_the_table_has_each_library(peer: str) -> None:
    assert re.search(rf"^\| {peer}: `", (DOCS / "README.md").read_text(), re.MULTILINE)


def test_calls_of_the_table_run() -> None:
    rows = re.findall(r"^\| .* \| `(.*)` \|$", (DOCS / "README.md").read_text(), re.MULTILINE)
    assert len(rows) >= 10
    for call in rows:
        layer = torch.nn.Linear(8, 4)
        layer.weight.data[:, 0] = 0  # for masks of what is there
        layer(torch.randn(2, 8)).square().sum().backward()  # for scores that take gradients
        names = {
            **vars(fastprune),
            "torch": torch,
            "layer": layer,
            "norms": {layer: torch.rand(8)},
            "calculate": lambda weight: weight > weight.mean(),
        }
        exec(call, names)
        assert fastprune.is_pruned(layer)
        assert 0 < layer.get_buffer("weight_mask").sum() < 32
