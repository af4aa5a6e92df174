"""Checks the fastprune that is installed, not the one of a checkout: whole, importable, pruning."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune as upstream

import fastprune


def check_files() -> None:
    """It is this environment's own, with its native part and its types."""
    package = Path(fastprune.__file__).resolve().parent
    if not package.is_relative_to(Path(sys.prefix).resolve()):
        raise SystemExit(f"fastprune is imported from {package}, which is not of {sys.prefix}")
    names = {path.name for path in package.iterdir()}
    missing = {"py.typed", "_C.pyi", "ops"} - names
    if missing or not any(name.startswith("_C.") and name != "_C.pyi" for name in names):
        raise SystemExit(f"the installed package lacks {', '.join(sorted(missing)) or '_C'}")
    version = metadata.version("fastprune")
    if version.partition("+")[0] != fastprune.__version__:
        raise SystemExit(f"installed as {version}, imported as {fastprune.__version__}")


def check_requirements() -> None:
    """As `pip check` sees them; what it says of other packages is not ours."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("fastprune ")]
    if lines or "Traceback" in done.stderr:
        raise SystemExit("\n".join(lines) or done.stderr)


def mask(module: Any) -> torch.Tensor:
    return module.weight_mask


def check_pruning() -> None:
    """The masks of upstream."""
    for dtype in (torch.float32, torch.bfloat16):
        ours, theirs = (nn.Linear(64, 64).to(dtype) for _ in range(2))
        values = torch.randperm(64 * 64).view(64, 64).to(dtype)
        for module in (ours, theirs):
            module.weight.data.copy_(values if dtype == torch.float32 else values % 128 + 1)
        fastprune.ln_structured(ours, "weight", amount=0.25, n=2, dim=0)
        upstream.ln_structured(theirs, "weight", amount=0.25, n=2, dim=0)
        assert mask(ours).sum() == mask(theirs).sum()
        if dtype == torch.float32:
            fastprune.l1_unstructured(ours, "weight", amount=0.5)
            upstream.l1_unstructured(theirs, "weight", amount=0.5)
            assert torch.equal(mask(ours), mask(theirs))
        ours(torch.ones(1, 64, dtype=dtype)).sum().backward()
        assert dict(ours.named_parameters())["weight_orig"].grad is not None
        fastprune.remove(ours, "weight")


if __name__ == "__main__":
    check_files()
    check_requirements()
    check_pruning()
    print(
        f"fastprune {metadata.version('fastprune')} prunes; built with {fastprune._C.build_info()}"
    )
