"""Life of a pruned model: a forward in evaluation, and a training step, in every form.

In the place of the floor stands the same model without pruning. It runs a second time, as "dense
again", which shows how far two times of one thing differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune
from harness.records import FASTPRUNE, FLOOR, UPSTREAM
from harness.timing import Contender
from suite.cases import Case
from suite.checks import check_equal
from suite.data import make_data
from suite.workload import Family, Workload

LAYERS = 4
DENSE_AGAIN = "dense again"
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 1e-3, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 1e-3, fused=True),
    "adamw-unfused": lambda parameters: torch.optim.AdamW(parameters, 1e-3),  # torch's default
}


def _cases(device: str) -> Iterator[Case]:
    for width in (256, 1024, 2048):
        shapes = LAYERS * ((width, width),)
        for batch in (1, 32):
            yield Case("life", f"eval-batch{batch}", device, shapes=shapes, quick=width == 1024)
        for batch in (1, 32):
            quick = device == "cuda" and width == 1024 and batch == 32  # compiling takes seconds
            variant = f"eval-compiled-batch{batch}"
            yield Case("life", variant, device, shapes=shapes, quick=quick)
        for optimizer in OPTIMIZERS:
            for batch in (32, 256):
                quick = width == 1024 and batch == 32
                variant = f"train-{optimizer}-batch{batch}"
                yield Case("life", variant, device, shapes=shapes, quick=quick)


def _stack(weights: list[Tensor], library: ModuleType | None, amount: float) -> nn.Sequential:
    """Linear layers without biases, pruned by a library."""
    layers = [nn.Linear(w.shape[1], w.shape[0], bias=False, device="meta") for w in weights]
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight = nn.Parameter(weight / weight.shape[1] ** 0.5)
        if library is not None:
            library.l1_unstructured(layer, "weight", amount)
    return nn.Sequential(*layers)


def _build(case: Case) -> Workload:
    weights = make_data(case)
    kind, *options, size = case.variant.split("-")
    batch = int(size.removeprefix("batch"))
    like = weights[0]
    inputs = torch.ones(batch, like.shape[1], dtype=like.dtype, device=like.device)
    if kind == "eval":
        return _build_eval(case, weights, inputs, compiled="compiled" in options)
    return _build_training(OPTIMIZERS["-".join(options)])(case, weights, inputs)


def _build_eval(case: Case, weights: list[Tensor], inputs: Tensor, *, compiled: bool) -> Workload:
    dense, again, theirs, ordinary, ours = (
        _stack(weights, library, case.amount).eval()
        for library in (None, None, upstream, fastprune, fastprune)
    )
    fastprune.cached(ours).__enter__()  # for as long as the model is there
    if compiled:
        torch.compiler.reset()  # what earlier cases compiled counts towards the limit of one code

    def contender(name: str, model: nn.Module) -> Contender:
        # With fullgraph a model that cannot be compiled is an error, rather than timed without.
        forward: Any = torch.compile(model, fullgraph=True) if compiled else model

        def run(_: object) -> object:
            with torch.no_grad():
                return forward(inputs)

        return Contender(name, run, main=True)

    contenders = [
        contender(FASTPRUNE, ours),
        contender(UPSTREAM, theirs),
        contender("ordinary form", ordinary),
        contender(DENSE_AGAIN, again),
        contender(FLOOR, dense),
    ]

    def check() -> None:
        check_equal(contenders[0].once(), contenders[2].once(), "the output")

    return Workload(contenders, case.itemsize * case.numel, check)


def _build_training(
    make: Callable[[Any], torch.optim.Optimizer],
) -> Callable[[Case, list[Tensor], Tensor], Workload]:
    def build(case: Case, weights: list[Tensor], inputs: Tensor) -> Workload:
        def contender(
            name: str, library: ModuleType | None, mask_dtype: Any = None
        ) -> tuple[Contender, nn.Sequential]:
            model = _stack(weights, library, case.amount)
            optimizer = make(model.parameters())
            if mask_dtype is not None:
                fastprune.in_place(model, optimizer, mask_dtype=mask_dtype)

            def step(_: object) -> None:
                optimizer.zero_grad()
                model(inputs).square().mean().backward()
                optimizer.step()

            return Contender(name, step, main=True), model

        ours, model = contender(FASTPRUNE, fastprune, torch.bool)
        contenders = [
            ours,
            contender(UPSTREAM, upstream)[0],
            contender("ordinary form", fastprune)[0],
            contender("in place, bits", fastprune, "bits")[0],
            contender(DENSE_AGAIN, None)[0],
            contender(FLOOR, None)[0],
        ]

        def check() -> None:
            ours.once()
            for layer in model:
                weight, mask = layer.weight, layer.weight_mask
                assert isinstance(weight, Tensor)
                check_equal(weight == 0, ~mask, "the entries that are zero")  # type: ignore[operator]

        return Workload(contenders, 9 * case.itemsize * case.numel, check)

    return build


LIFE = Family(_cases, _build)
