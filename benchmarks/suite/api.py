"""The rest of the API: random and custom methods, hooks, whole models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from harness.timing import Contender
from suite import models
from suite.cases import CENTRE, LARGE, QUICK, SMALL, Case, by_size, sizes_of
from suite.checks import check_channels, check_equal, check_selection
from suite.data import SEED, half_mask, make_data
from suite.topk import build_global, build_local
from suite.workload import (
    LIBRARIES,
    Family,
    Masks,
    Modules,
    Workload,
    check_products,
    clones,
    floor_of,
    masks_of,
    on_modules,
    parameters,
    products,
)


def _random_cases(device: str) -> Iterator[Case]:
    yield from by_size(Case("random", "unstructured", device), sizes_of(device)[1:])
    yield from by_size(Case("random", "structured-dim0", device), (SMALL, QUICK, LARGE))


def _custom_cases(device: str) -> Iterator[Case]:
    yield from by_size(Case("custom", "dense", device), (SMALL, QUICK, CENTRE, LARGE))
    yield from by_size(Case("custom", "again", device), (SMALL, QUICK, LARGE))


def _hook_cases(device: str) -> Iterator[Case]:
    for variant in ("hook", "layer"):
        yield Case("hook", variant, device, shapes=((64, 64),), quick=True)
        yield Case("hook", variant, device, shapes=(LARGE,))
    for shape in ((64, 64), QUICK, LARGE):
        yield Case("hook", "bool", device, shapes=(shape,))


def _model_cases(device: str) -> Iterator[Case]:
    shapes = {
        "resnet50": models.resnet50(),
        "bert-base": models.bert_base(),
        "vit-b16": models.vit_b16(),
    }
    on_gpu = device == "cuda"
    for scope in ("local", "global"):
        model = Case("model", f"minilm-{scope}", device, data="pretrained")
        quick, peak = scope == "global", scope == "global"
        yield replace(model, shapes=tuple(models.minilm_l6()), quick=quick, peak=peak)
        for name, layers in shapes.items():
            model = Case("model", f"{name}-{scope}", device, shapes=tuple(layers), data="layers")
            yield replace(model, quick=on_gpu and name == "resnet50")
        decoder = Case("model", f"decoder-300m-{scope}", device, data="layers")
        yield replace(decoder, shapes=tuple(models.decoder_300m()), peak=scope == "global")
        llama = Case("model", f"llama-1b-{scope}", device, "bfloat16", data="layers", quick=on_gpu)
        yield replace(llama, shapes=tuple(models.llama_1b()))


def _build_random(case: Case) -> Workload:
    """Both libraries draw the same numbers and rank these."""
    weights = make_data(case)
    structured = case.variant == "structured-dim0"

    def prune(library: ModuleType, modules: Modules) -> None:
        for module in modules:
            if structured:
                library.random_structured(module, "weight", case.amount, dim=0)
            else:
                library.random_unstructured(module, "weight", case.amount)

    contenders = on_modules(weights, [None] * len(weights), prune)
    bytes_moved = (3 if structured else 4) * case.itemsize * case.numel

    def check() -> None:
        torch.manual_seed(SEED)
        modules = contenders[0].once()
        torch.manual_seed(SEED)
        for weight, mask in zip(weights, masks_of(modules), strict=True):
            if structured:
                draws = torch.rand(len(weight)).double().to(weight.device)
                check_channels(draws, mask, case.amount, 0)
            else:
                draws = torch.rand_like(weight)
                check_selection([draws], [None], [mask], case.amount, largest=True)
        check_products(modules, weights)

    floor = floor_of(case, bytes_moved, clones(weights))
    return Workload([*contenders, floor], bytes_moved, check)


def _build_custom(case: Case) -> Workload:
    weights = make_data(case)
    given = [half_mask(weight) for weight in weights]
    again = case.variant == "again"  # by the same mask, which leaves it as it is

    def prune(library: ModuleType, modules: Modules) -> None:
        for module, mask in zip(modules, given, strict=True):
            library.custom_from_mask(module, "weight", mask)

    before: Masks = given
    contenders = on_modules(weights, before if again else [None] * len(weights), prune)
    bytes_moved = 4 * case.itemsize * case.numel

    def check() -> None:
        modules = contenders[0].once()
        for mask, new in zip(given, masks_of(modules), strict=True):
            check_equal(new, mask, "the mask")
        check_products(modules, weights)

    floor = floor_of(case, bytes_moved, products(weights, given))
    return Workload([*contenders, floor], bytes_moved, check)


def _build_hook(case: Case) -> Workload:
    """What a pruned layer does before each forward, alone or with the forward of eight inputs."""
    (weight,) = make_data(case)
    mask = half_mask(weight)
    (parameter,) = parameters([weight])
    inputs = torch.ones(8, weight.shape[1], dtype=weight.dtype, device=weight.device)
    alone = case.variant != "layer"

    def contender(name: str, library: ModuleType) -> tuple[Contender, nn.Module]:
        layer = nn.Linear(1, 1, bias=False)
        layer.weight = parameter
        library.custom_from_mask(layer, "weight", mask)
        if case.variant == "bool":
            layer.weight_mask = mask.bool()
        hook: Callable[..., Any] = next(iter(layer._forward_pre_hooks.values()))
        if alone:
            return Contender(name, lambda _: hook(layer, inputs)), layer
        return Contender(name, lambda _: layer(inputs)), layer

    (ours, layer), (theirs, _) = (contender(*item) for item in LIBRARIES.items())

    def floor() -> object:
        return weight * mask if alone else F.linear(inputs, weight * mask)

    def check() -> None:
        del layer.__dict__["weight"]  # so that the hook has to set it
        ours.once()
        check_products([layer], [weight])

    bytes_moved = (3 if alone else 4) * case.itemsize * case.numel
    if case.variant == "bool":  # a byte an entry, and a copy of it for the backward
        bytes_moved = (2 * case.itemsize + 3) * case.numel
    return Workload([ours, theirs, floor_of(case, bytes_moved, floor)], bytes_moved, check)


def _build_model(case: Case) -> Workload:
    return build_global(case) if case.variant.endswith("-global") else build_local(case)


RANDOM = Family(_random_cases, _build_random)
CUSTOM = Family(_custom_cases, _build_custom)
HOOK = Family(_hook_cases, _build_hook)
MODEL = Family(_model_cases, _build_model)
