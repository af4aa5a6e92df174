"""The same calls on fastprune and on torch.nn.utils.prune: the same module afterwards."""

import copy
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune
from fastprune.keywords import MISSING
from support.inputs import name

Call = Callable[[ModuleType, nn.Module], Any]
BINARY = torch.tensor([0.0, 1.0])


def conv() -> nn.Module:
    return nn.Conv2d(6, 8, 3)


def tensor_of(module: nn.Module, tensor: str) -> Tensor:
    result: Tensor = getattr(module, tensor)
    return result


def assert_same_module(ours: nn.Module, theirs: nn.Module) -> None:
    """The same state dict, order and dtypes included, the same tensors, hooks and outputs."""
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in ours.state_dict().items():
        other = theirs.state_dict()[key]
        assert value.dtype == other.dtype, key
        assert torch.equal(value, other), key
    assert [k for k, _ in ours.named_parameters()] == [k for k, _ in theirs.named_parameters()]
    for a, b in zip(ours.modules(), theirs.modules(), strict=True):
        for tensor in ("weight", "bias"):
            if isinstance(getattr(b, tensor, None), Tensor):
                assert torch.equal(tensor_of(a, tensor), tensor_of(b, tensor))
                assert type(tensor_of(a, tensor)) is type(tensor_of(b, tensor))
        hooks = [list(m._forward_pre_hooks.values()) for m in (a, b)]
        assert [describe(h) for h in hooks[0]] == [describe(h) for h in hooks[1]]


def describe(hook: Any) -> Any:
    inside = [describe(h) for h in hook] if isinstance(hook, upstream.PruningContainer) else []
    amount = getattr(hook, "amount", None)
    return type(hook).__name__, hook._tensor_name, amount, inside


def run_both(make: Callable[[], nn.Module], *calls: Call) -> tuple[nn.Module, nn.Module]:
    """Make one module twice; make each call on both from the same seed; compare after each."""
    ours = make()
    theirs = copy.deepcopy(ours)
    for call in calls:
        after = []
        for package, module in ((fastprune, ours), (upstream, theirs)):
            torch.manual_seed(11)
            call(package, module)
            after.append(torch.rand(3))
        assert torch.equal(*after), "the generator was left in another state"
        assert_same_module(ours, theirs)
    return ours, theirs


def unstructured(tensor: str, amount: float) -> dict[str, Call]:
    return {
        "l1": lambda p, m: p.l1_unstructured(m, tensor, amount),
        "l1_scores": lambda p, m: p.l1_unstructured(
            m, tensor, amount, importance_scores=torch.randn(tensor_of(m, tensor).shape)
        ),
        "random": lambda p, m: p.random_unstructured(m, tensor, amount),
        "custom": lambda p, m: p.custom_from_mask(
            m, tensor, BINARY[torch.randint(2, tensor_of(m, tensor).shape)]
        ),
        "identity": lambda p, m: p.identity(m, tensor),
    }


@pytest.mark.parametrize("method", ["l1", "l1_scores", "random", "custom", "identity"])
@pytest.mark.parametrize("tensor", ["weight", "bias"])
@pytest.mark.parametrize("amount", [0, 1, 3, 8, 0.0, 0.1, 0.25, 0.5, 0.77, 1.0])
def test_unstructured(method: str, tensor: str, amount: float) -> None:
    run_both(conv, unstructured(tensor, amount)[method])


@pytest.mark.parametrize("second", ["l1", "l1_scores", "random", "custom", "identity"])
@pytest.mark.parametrize("first", ["l1", "random", "custom", "identity"])
def test_unstructured_repeated(first: str, second: str) -> None:
    run_both(
        conv,
        unstructured("weight", 0.3)[first],
        unstructured("weight", 0.5)[second],
        unstructured("weight", 7)[second],
        unstructured("weight", 0.9)[first],
    )


@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -3])
@pytest.mark.parametrize("amount", [0, 1, 2, 3, 0.0, 0.3, 0.5, 1.0])
def test_random_structured(amount: float, dim: int) -> None:
    run_both(conv, lambda p, m: p.random_structured(m, "weight", amount, dim))


@pytest.mark.parametrize("n", [1, 2, 3.5, 0.5, math.inf, -math.inf, -1, "fro", "nuc"])
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("amount", [0, 1, 0.3, 0.5, 1.0])
def test_ln_structured(amount: float, dim: int, n: float | str) -> None:
    if isinstance(n, str):  # upstream takes these norms of matrices only
        run_both(
            lambda: nn.Conv1d(7, 9, 3), lambda p, m: p.ln_structured(m, "weight", amount, n, dim)
        )
    else:
        run_both(conv, lambda p, m: p.ln_structured(m, "weight", amount, n, dim))


def test_ln_structured_of_order_0() -> None:
    def make() -> nn.Module:
        module = nn.Linear(10, 6)
        with torch.no_grad():  # as many entries in row i as i + 1: no ties
            module.weight.mul_(torch.ones(6, 10).tril())
        return module

    run_both(make, lambda p, m: p.ln_structured(m, "weight", 0.5, 0, 0))


def test_ln_structured_with_scores() -> None:
    run_both(
        conv,
        lambda p, m: p.ln_structured(m, "weight", 3, 2, 0, torch.randn(8, 6, 3, 3)),
        lambda p, m: p.ln_structured(m, "weight", 2, 1, 0, torch.randn(8, 6, 3, 3)),
    )


STRUCTURED: dict[str, Call] = {
    "ln_0": lambda p, m: p.ln_structured(m, "weight", 2, 2, 0),
    "ln_1": lambda p, m: p.ln_structured(m, "weight", 0.4, 1, 1),
    "random_0": lambda p, m: p.random_structured(m, "weight", 0.3, 0),
    "random_1": lambda p, m: p.random_structured(m, "weight", 1, -3),
    "l1": lambda p, m: p.l1_unstructured(m, "weight", 0.3),
    "nothing": lambda p, m: p.ln_structured(m, "weight", 0, 2, 0),
}


@pytest.mark.parametrize("second", STRUCTURED)
@pytest.mark.parametrize("first", STRUCTURED)
def test_structured_repeated(first: str, second: str) -> None:
    run_both(conv, STRUCTURED[first], STRUCTURED[second], STRUCTURED[second], STRUCTURED[first])


# ---- global ----


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 7))


def pairs(model: nn.Module) -> list[tuple[nn.Module, str]]:
    return [(model[i], t) for i in (0, 3) for t in ("weight", "bias")]  # type: ignore[index]


@pytest.mark.parametrize("method", ["L1Unstructured", "RandomUnstructured"])
@pytest.mark.parametrize("amount", [0, 1, 50, 0.0, 0.2, 0.5, 1.0])
def test_global(method: str, amount: float) -> None:
    def call(package: ModuleType, model: nn.Module) -> None:
        package.global_unstructured(pairs(model), getattr(package, method), amount=amount)

    run_both(two_layers, call)


@pytest.mark.parametrize("method", ["L1Unstructured", "RandomUnstructured"])
def test_global_repeated(method: str) -> None:
    def call(package: ModuleType, model: nn.Module) -> None:
        package.global_unstructured(pairs(model), getattr(package, method), amount=0.3)

    def local(package: ModuleType, model: nn.Module) -> None:
        package.l1_unstructured(model[3], "weight", 0.5)  # type: ignore[index]

    run_both(two_layers, call, call, local, call)
    run_both(two_layers, local, call, local, call)


def test_global_with_scores() -> None:
    def call(package: ModuleType, model: nn.Module) -> None:
        chosen = pairs(model)
        scores = {pair: torch.randn(tensor_of(*pair).shape) for pair in chosen[:3]}
        package.global_unstructured(chosen, package.L1Unstructured, scores, amount=0.4)

    run_both(two_layers, call, call)


def test_global_identity() -> None:
    run_both(two_layers, lambda p, m: p.global_unstructured(pairs(m), p.Identity))


# ---- dtypes ----


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=name)
@pytest.mark.parametrize("mask_dtype", [None, torch.bool, torch.uint8, torch.float64], ids=name)
def test_dtype_of_masks(dtype: torch.dtype, mask_dtype: torch.dtype | None) -> None:
    def custom(package: ModuleType, module: nn.Module) -> None:
        mask = BINARY[torch.randint(2, (8, 6, 3, 3))]
        package.custom_from_mask(module, "weight", mask.to(mask_dtype or dtype))

    run_both(
        lambda: conv().to(dtype),
        custom,
        lambda p, m: p.l1_unstructured(m, "weight", 0.2),
        lambda p, m: p.ln_structured(m, "weight", 1, 2, 0),
        custom,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=name)
def test_16_bit_by_count_and_threshold(dtype: torch.dtype) -> None:
    ours = nn.Linear(64, 32).to(dtype)
    theirs = copy.deepcopy(ours)
    for amount in (0.3, 0.5, 100):
        before = ours.weight.detach().abs()
        fastprune.l1_unstructured(ours, "weight", amount)
        upstream.l1_unstructured(theirs, "weight", amount)
        masks = ours.weight_mask, theirs.weight_mask
        assert masks[0].dtype == masks[1].dtype == dtype
        assert masks[0].count_nonzero() == masks[1].count_nonzero()
        for mask in masks:
            kept = before[mask == 1]
            assert kept.min() == before[masks[1] == 1].min()
            assert torch.equal(kept.sort().values, before[masks[1] == 1].sort().values)


@pytest.mark.parametrize("method", ["random_unstructured", "random_structured"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=name)
def test_random_count_in_other_dtypes(dtype: torch.dtype, method: str) -> None:
    ours = nn.Linear(16, 8).to(dtype)
    theirs = copy.deepcopy(ours)
    options = {"dim": 0} if method == "random_structured" else {}
    for package, module in ((fastprune, ours), (upstream, theirs)):
        torch.manual_seed(5)
        getattr(package, method)(module, "weight", amount=0.5, **options)
    assert ours.weight_mask.dtype == theirs.weight_mask.dtype
    assert ours.weight_mask.sum() == theirs.weight_mask.sum()
    if dtype == torch.float64 or method == "random_structured":
        assert torch.equal(ours.weight_mask, theirs.weight_mask)


@pytest.mark.parametrize("function", ["l1_unstructured", "ln_structured"])
@pytest.mark.parametrize("scores_dtype", [torch.float64, torch.float16], ids=name)
def test_scores_of_another_dtype(scores_dtype: torch.dtype, function: str) -> None:
    options = {"n": 1, "dim": 0} if function == "ln_structured" else {}

    def call(package: ModuleType, module: nn.Module) -> None:
        scores = torch.randperm(8 * 6).sub(20.25).view(8, 6).to(scores_dtype)
        apply = getattr(package, function)
        apply(module, "weight", amount=2, importance_scores=scores, **options)

    run_both(lambda: nn.Linear(6, 8), call, call, lambda p, m: p.l1_unstructured(m, "weight", 3))


def test_converted_before_the_next_forward() -> None:
    run_both(
        conv,
        lambda p, m: p.l1_unstructured(m, "weight", 0.3),
        lambda p, m: m.double(),
        lambda p, m: p.l1_unstructured(m, "weight", 0.3),
        lambda p, m: p.ln_structured(m, "weight", 1, 2, 0),
    )


# ---- methods by hand ----

METHODS: dict[str, Callable[[ModuleType], Any]] = {
    "Identity": lambda p: p.Identity(),
    "L1Unstructured": lambda p: p.L1Unstructured(0.4),
    "RandomUnstructured": lambda p: p.RandomUnstructured(5),
    "LnStructured": lambda p: p.LnStructured(0.5, 2, 0),
    "LnStructured_nothing": lambda p: p.LnStructured(0, 2, 0),
    "RandomStructured": lambda p: p.RandomStructured(2),
    "RandomStructured_nothing": lambda p: p.RandomStructured(0.0),
    "CustomFromMask": lambda p: p.CustomFromMask(torch.ones(6, 8).tril()),
}


@pytest.mark.parametrize("mask_dtype", [torch.float32, torch.bool, torch.uint8], ids=name)
@pytest.mark.parametrize("method", METHODS)
def test_compute_mask_and_prune_by_hand(method: str, mask_dtype: torch.dtype) -> None:
    t = torch.randn(6, 8)
    old = BINARY[torch.randint(2, (6, 8))].to(mask_dtype)
    results = []
    for package in (fastprune, upstream):
        torch.manual_seed(3)
        instance = METHODS[method](package)
        kept = old.clone()
        results.append(
            [
                instance.compute_mask(t, default_mask=kept),
                instance.prune(t),
                instance.prune(t, default_mask=kept),
                instance.prune(t, importance_scores=t.flip(0)),
            ]
        )
        assert torch.equal(kept, old)
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def test_integer_scores() -> None:
    t = torch.randperm(100) - 50
    t = t * 2 + 1 + (t >= 0)  # distinct magnitudes
    for amount in (0.3, 7):
        masks = [
            p.L1Unstructured(amount).compute_mask(t, torch.ones(100)) for p in (fastprune, upstream)
        ]
        assert torch.equal(*masks)


# ---- ours and upstream's on one module ----


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0), (1, 0, 1)], ids=str)
@pytest.mark.parametrize("function", ["l1", "random", "ln_0", "random_0"])
def test_mixed_with_upstream(function: str, order: tuple[int, ...]) -> None:
    calls = {**STRUCTURED, **unstructured("weight", 0.3)}
    packages = (fastprune, upstream)
    mixed, pure = conv(), conv()
    pure.load_state_dict(mixed.state_dict())
    for index in order:
        torch.manual_seed(1)
        calls[function](packages[index], mixed)
        torch.manual_seed(1)
        calls[function](upstream, pure)
        mixed(torch.randn(1, 6, 5, 5))
        assert torch.equal(mixed.weight_mask, pure.weight_mask)
        assert len(mixed._forward_pre_hooks) == 1
    (hook,) = mixed._forward_pre_hooks.values()
    assert isinstance(hook, upstream.PruningContainer)
    assert len(hook) == len(order)
    for package in packages:
        assert package.is_pruned(mixed)
    packages[order[0]].remove(mixed, "weight")
    upstream.remove(pure, "weight")
    assert_same_module(mixed, pure)


def test_state_dict_loads_both_ways() -> None:
    ours, theirs = conv(), conv()
    fastprune.l1_unstructured(ours, "weight", 0.5)
    upstream.random_unstructured(theirs, "weight", 0.3)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 6, 5, 5)
    assert torch.equal(ours(x), theirs(x))
    theirs.weight_mask.zero_()
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(x), theirs(x))


CLASSES = [
    n for n, c in vars(upstream).items() if inspect.isclass(c) and c.__module__ == upstream.__name__
]


@pytest.mark.parametrize("cls", CLASSES)
def test_classes_inherit_from_upstreams(cls: str) -> None:
    ours, theirs = getattr(fastprune, cls), getattr(upstream, cls)
    assert issubclass(ours, theirs)
    assert issubclass(ours, fastprune.BasePruningMethod)
    assert getattr(ours, "PRUNING_TYPE", None) == getattr(theirs, "PRUNING_TYPE", None)


def test_every_name_of_upstream_is_there() -> None:
    assert len(vars(upstream)) > 30
    names = [n for n in vars(upstream) if not n.startswith("__")]
    assert [n for n in names if not hasattr(fastprune, n)] == []
    assert {*names, *fastprune.__all__, "__version__"} <= {*dir(fastprune)}
    assert "apply" not in dir(fastprune)  # as no other file of the package
    assert fastprune.Iterable is upstream.Iterable  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="module 'fastprune' has no attribute 'iterable'"):
        fastprune.iterable  # type: ignore[attr-defined]  # noqa: B018


def test_names_of_upstream_where_fastprune_stands_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.nn.utils, "prune", fastprune)
    monkeypatch.setitem(sys.modules, "torch.nn.utils.prune", fastprune)
    assert fastprune.Iterable is upstream.Iterable  # type: ignore[attr-defined]
    assert fastprune._compute_norm is upstream._compute_norm  # type: ignore[attr-defined]


FUNCTIONS = [
    n
    for n, f in vars(upstream).items()
    if inspect.isfunction(f) and not n.startswith("_") and f.__module__ == upstream.__name__
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_signatures_of_functions(function: str) -> None:
    ours, theirs = (inspect.signature(getattr(p, function)) for p in (fastprune, upstream))
    accepted = ours.parameters
    expected = list(theirs.parameters.values())
    assert [p.name for p in accepted.values() if p.kind is not p.KEYWORD_ONLY] == [
        p.name for p in expected
    ]
    for parameter in expected:
        assert accepted[parameter.name].kind is parameter.kind
        assert accepted[parameter.name].default == default_of(parameter, accepted)


@pytest.mark.parametrize("cls", CLASSES)
def test_signatures_of_apply_and_init(cls: str) -> None:
    for method in ("apply", "__init__"):
        ours, theirs = (
            inspect.signature(getattr(getattr(p, cls), method)) for p in (fastprune, upstream)
        )
        accepted = ours.parameters
        if any(p.kind == p.VAR_KEYWORD for p in accepted.values()):
            continue
        for parameter in theirs.parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            assert accepted[parameter.name].default == default_of(parameter, accepted)


def default_of(parameter: inspect.Parameter, accepted: Mapping[str, Any]) -> Any:
    """Upstream's, but what it needs may be left out where a sparsity takes its place."""
    needed = parameter.default is parameter.empty
    if not needed or "sparsity" not in accepted:
        return parameter.default
    return {"amount": None, "dim": None, "n": MISSING}.get(parameter.name, parameter.default)


def test_remove_and_is_pruned() -> None:
    def gone(package: ModuleType, module: nn.Module) -> None:
        package.remove(module, "weight")
        assert not package.is_pruned(module)

    ours, _ = run_both(conv, STRUCTURED["l1"], STRUCTURED["l1"], gone, STRUCTURED["ln_0"], gone)
    assert isinstance(ours.weight, nn.Parameter)
    assert not ours._forward_pre_hooks
    sequence = nn.Sequential(ours)
    assert not fastprune.is_pruned(sequence)
    fastprune.identity(ours, "bias")
    assert fastprune.is_pruned(sequence)
    assert upstream.is_pruned(sequence)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda kind: kind.l1_unstructured(torch.ones(3), "weight", 0.5), "_parameters"),
        (lambda kind: kind.random_structured(object.__new__(nn.Linear), "weight", 1, 0), "_param"),
        (
            lambda kind: kind.global_unstructured([nn.Linear(2, 2)], kind.L1Unstructured, amount=1),
            r"expected parameters to be \(module, name\) pairs, got Linear at index 0",
        ),
        (
            lambda kind: kind.global_unstructured(
                [(nn.Linear(2, 2), "weight", 1)], kind.L1Unstructured, amount=1
            ),
            r"\(module, name\) pairs, got tuple at index 0",
        ),
        (
            lambda kind: kind.global_unstructured([(nn.Linear(2, 2), "weight")], "l1", amount=1),
            "class such as L1Unstructured, or a function that makes a method, got 'l1', which fail",
        ),
        (
            lambda kind: kind.global_unstructured(
                [(nn.Linear(2, 2), "weight")], kind.l1_unstructured, amount=1
            ),
            "class such as L1Unstructured, or .* got <function l1_unstructured at .*, which failed",
        ),
        (
            lambda kind: kind.custom_from_mask(nn.Linear(2, 2), "weight", [[1, 0], [0, 1]]),
            "expected mask to be a Tensor, got list",
        ),
        (
            lambda kind: kind.custom_from_mask(nn.Linear(2, 2), "weight", np.eye(2)),
            "expected mask to be a Tensor, got ndarray",
        ),
        (
            lambda kind: kind.l1_unstructured(nn.Linear(1, 2), "weight", 1, [0.5, 1.0]),
            r"expected importance_scores of weight of Linear\(.*\) to be a Tensor, got list",
        ),
        (
            lambda kind: kind.l1_unstructured(nn.Linear(2, 2), "weight", 1, np.eye(2)),
            r"expected importance_scores of weight of Linear\(.*\) to be a Tensor, got ndarray",
        ),
        (
            lambda kind: kind.global_unstructured(
                [pair := (nn.Linear(1, 2), "weight")], kind.L1Unstructured, {pair: [1.0]}, amount=1
            ),
            r"expected importance_scores of weight of Linear\(.*\) to be a Tensor, got list",
        ),
        (
            lambda kind: kind.global_unstructured(
                list(nn.Linear(2, 2).named_parameters()), kind.L1Unstructured, amount=1
            ),
            r"\(module, name\) pairs, got \(str, Parameter\) at index 0",
        ),
        (
            lambda kind: kind.global_unstructured([("0", "weight")], kind.L1Unstructured, amount=1),
            "expected a torch.nn.Module, got a 'str' object",
        ),
        (
            lambda kind: kind.global_unstructured(
                [(nn.Linear(2, 2, bias=False), "bias")], kind.L1Unstructured, amount=1
            ),
            r"expected bias of Linear\(.*\) to be a Parameter, got NoneType",
        ),
        (
            lambda kind: kind.remove((nn.Linear(2, 2), "weight"), "weight"),
            "expected a torch.nn.Module, got a 'tuple' object",
        ),
    ],
)
def test_arguments_of_other_types(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(Exception) as theirs:
        call(upstream)
    with pytest.raises(theirs.type, match=message):
        call(fastprune)


METHODS_BY_HAND: dict[str, Callable[[ModuleType], Any]] = {
    "l1": lambda library: library.L1Unstructured(2),
    "random": lambda library: library.RandomUnstructured(2),
    "ln": lambda library: library.LnStructured(1, 1, 0),
    "random_structured": lambda library: library.RandomStructured(1, 0),
    "custom": lambda library: library.CustomFromMask(torch.eye(3).long()),
    "identity": lambda library: library.Identity(),
}


@pytest.mark.parametrize("mask", ["none", "ones", "random"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("method", METHODS_BY_HAND)
@pytest.mark.parametrize("scores", [None, torch.float32, torch.int64])
def test_prune_of_integers_by_hand(
    method: str, dtype: torch.dtype, mask: str, scores: torch.dtype | None
) -> None:
    draws = torch.Generator().manual_seed(0)
    t = torch.randperm(9, generator=draws).view(3, 3).to(dtype)
    old = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 1, 1]]).to(dtype)
    masks = {"none": None, "ones": torch.ones_like(t), "random": old}
    ranked = None if scores is None else torch.randperm(9, generator=draws).view(3, 3).to(scores)
    results: list[Any] = []
    for library in (upstream, fastprune):
        torch.manual_seed(1)
        try:
            results.append(METHODS_BY_HAND[method](library).prune(t, masks[mask], ranked))
        except Exception as error:
            results.append(type(error))
    theirs, ours = results
    if isinstance(theirs, Tensor):
        assert isinstance(ours, Tensor) and ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    else:
        assert ours is theirs


class Tagged(Tensor):
    """A subclass that adds nothing."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_subclasses_as_scores_do_not_spread(dtype: torch.dtype) -> None:
    """Of one of two layers pruned together: masks are of the parameters' class."""

    def prune(library: ModuleType) -> list[Tensor]:
        torch.manual_seed(0)
        layers = [nn.Linear(4, 3), nn.Linear(4, 3)]
        given = {(layers[0], "weight"): torch.rand(3, 4, dtype=dtype).as_subclass(Tagged)}
        pairs = [(layer, "weight") for layer in layers]
        library.global_unstructured(pairs, library.L1Unstructured, given, amount=0.5)
        return [t for layer in layers for t in (layer.weight_mask, layer.weight)]

    for ours, theirs in zip(prune(fastprune), prune(upstream), strict=True):
        assert type(ours) is type(theirs)
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


@pytest.mark.parametrize("first", [None, "l1_unstructured", "identity"])
def test_a_subclass_as_given_mask(first: str | None) -> None:
    results = []
    for library in (upstream, fastprune):
        torch.manual_seed(0)
        layer = nn.Linear(4, 3)
        if first == "identity":
            library.identity(layer, "weight")
        elif first is not None:
            library.l1_unstructured(layer, "weight", 0.3)
        library.custom_from_mask(layer, "weight", torch.eye(3, 4).as_subclass(Tagged))
        results.append([layer.weight_mask, layer.weight, layer(torch.ones(1, 4))])
    for theirs, ours in zip(*results, strict=True):
        assert type(ours) is type(theirs) and torch.equal(ours, theirs)
