"""What each form of a pruned layer holds between two training steps, as docs/design.md says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune

DESIGN = Path(__file__).resolve().parents[2] / "docs" / "design.md"
COLUMNS = ("weight", "mask", "product", "gradient", "AdamW")
ENTRIES = 64 * 64


def held(tensors: Iterable[object]) -> float:
    """Bytes an entry of the weight that these tensors hold, each memory counted once."""
    storages = [t.untyped_storage() for t in tensors if isinstance(t, Tensor)]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values()) / ENTRIES


def measured(form: str) -> dict[str, float]:
    layer = nn.Linear(64, 64, bias=False)
    library: ModuleType | None = {"dense": None, "upstream": upstream}.get(form, fastprune)
    if library is not None:
        library.l1_unstructured(layer, "weight", 0.5)
    optimizer = torch.optim.AdamW(layer.parameters())
    if form.startswith("in place"):
        mask_dtype = "bits" if form.endswith("bits") else torch.bool
        fastprune.in_place(layer, optimizer, mask_dtype=mask_dtype)
    for _ in range(2):
        layer(torch.ones(1, 64)).sum().backward()
        optimizer.step()
    (weight,) = layer.parameters()
    state = [s for s in optimizer.state[weight].values() if s.numel() > 1]
    return {
        "weight": held([weight]),
        "mask": held(layer.buffers()),
        "product": held([layer.__dict__.get("weight")]),
        "gradient": held([weight.grad]),
        "AdamW": held(state),
    }


def documented() -> dict[str, list[float]]:
    """The rows of the table, by form: the columns, and their sum."""
    text = DESIGN.read_text()
    header = re.escape("| form | weight | mask | product | gradient | AdamW | all |")
    (table,) = re.findall(header + r"\n\|[-:| ]+\|\n((?:\|.*\|\n)+)", text)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {form: [float(cell) for cell in cells] for form, *cells in rows}


@pytest.mark.parametrize("form", ["dense", "upstream", "ordinary", "in place", "in place, bits"])
def test_table(form: str) -> None:
    *columns, whole = documented()[form]
    assert dict(zip(COLUMNS, columns, strict=True)) == measured(form)
    assert whole == sum(columns)
