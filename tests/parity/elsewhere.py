"""Tensors on a device without kernels of ours, which a small library of this folder makes.

In a process of its own: the autograd engine knows only devices that were there at its first
backward.
"""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
import tempfile
import types
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.utils.prune as upstream
from torch import nn
from torch.utils import cpp_extension

import fastprune
from fastprune.packing import packed

from .make import X
from .registry import Outcome, case, outcome
from .tensors import METHODS

NAME = "elsewhere"
HERE = Path(__file__).resolve().parent
LIBRARIES = {library.__name__: library for library in (upstream, fastprune)}


@dataclass
class Results:
    """What the process found.

    Attributes:
        outcomes: by library and method.
        warnings: messages.
        products: differences from the expected ones.
        moved: of ``moved_and_pruned_again``.
    """

    outcomes: dict[tuple[str, str], Outcome]
    warnings: list[str]
    products: list[torch.Tensor]
    moved: list[tuple[str, torch.Tensor, torch.Tensor]]


def register_device() -> None:
    folder = HERE.parents[1] / "build" / f"{NAME}-{torch.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    cpp_extension.load(
        NAME,
        [str(HERE / "elsewhere.cpp")],
        extra_cflags=["-O0"],
        extra_include_paths=[str(HERE.parent)],
        build_directory=str(folder),
        is_python_module=False,
    )
    torch.utils.rename_privateuse1_backend(NAME)
    module: Any = types.ModuleType(NAME)
    module.is_available = lambda: True
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module._is_in_bad_fork = lambda: False
    module.manual_seed_all = lambda seed: None
    torch._register_device_module(NAME, module)


def pruned(prune: ModuleType, method: str) -> Any:
    """Prune a layer there twice, train it, remove; everything brought back."""
    layer = nn.Linear(4, 3).to(NAME)
    for _ in range(2):
        METHODS[method](prune, layer)
    layer(X.to(NAME)).square().sum().backward()
    seen = [layer.weight_mask, layer.weight, layer.weight_orig.grad]
    prune.remove(layer, "weight")
    return [t.detach().cpu() for t in (*seen, layer.weight)]


def products() -> list[torch.Tensor]:
    """The results of masked_mul's forms there, minus the expected ones."""
    t, mask = torch.randn(3, 4), torch.ones(3, 4).tril()
    there = t.to(NAME), mask.to(NAME)
    ops = fastprune.ops
    made = [ops.masked_mul(*there), *ops.masked_muls([there[0]], [there[1]])]
    bits = [mask.bool(), packed(mask)]
    made += ops.masked_muls_([there[0].clone() for _ in bits], [m.to(NAME) for m in bits])
    return [p.cpu() - mask * t for p in (*made, ops.masked_mul_(*there))]


def moved_and_pruned_again() -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Masks and products by method, of a layer pruned here, moved and pruned there, and only here.

    ``to`` moves no product, so upstream fails.
    """
    found = []
    again = METHODS | {"local_unstructured": _locally}
    for method in again:
        made = []
        for device in (NAME, "cpu"):
            torch.manual_seed(3)
            layer = fastprune.l1_unstructured(nn.Linear(4, 3), "weight", 0.4).to(device)
            if method == "custom_from_mask":
                mask = torch.ones(3, 4, device=device).tril()
                fastprune.custom_from_mask(layer, "weight", mask)
            else:
                again[method](fastprune, layer)
            made.append((layer.weight_mask.cpu(), layer.weight.detach().cpu()))
        found += [(method, *both) for both in zip(*made, strict=True)]
    return found


def _locally(prune: Any, layer: nn.Module) -> None:
    prune.local_unstructured([(layer, "weight")], prune.L1Unstructured, amount=0.3)


def main(file: str) -> None:
    register_device()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(3):
            pruned(fastprune, "l1_unstructured")
    outcomes = {
        (name, method): outcome(functools.partial(pruned, method=method), library)
        for name, library in LIBRARIES.items()
        for method in METHODS
    }
    said = [str(warning.message) for warning in seen]
    found = Results(outcomes, said, products(), moved_and_pruned_again())
    Path(file).write_bytes(pickle.dumps(found))


@functools.cache
def results() -> Results:
    result: Results
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{NAME}.pickle"
        command = [sys.executable, "-m", "parity.elsewhere", str(file)]
        subprocess.run(command, cwd=HERE.parent, check=True)
        result = pickle.loads(file.read_bytes())
    return result


def result_of(prune: ModuleType, method: str) -> Any:
    there = results().outcomes[prune.__name__, method]
    if there.error is not None:
        raise there.error
    return there.value


for _method in METHODS:
    case("devices", f"PrivateUse1: `{_method}`")(functools.partial(result_of, method=_method))

if __name__ == "__main__":
    # As the module that others import, so that what is pickled names it.
    from parity import elsewhere

    elsewhere.main(sys.argv[1])
