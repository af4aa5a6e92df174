"""patch and unpatch: upstream's own names with our kernels, and upstream again."""

from __future__ import annotations

import copy
import inspect
import io
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune
from parity.equal import difference

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
#: What Python itself notes in classes, and in modules that have warned.
CACHES = ("_abc_impl", "__slotnames__", "__warningregistry__")
CLASSES = [kind for kind in vars(upstream).values() if inspect.isclass(kind)]


def attributes() -> dict[tuple[str, str], Any]:
    """Every attribute of the module and of its classes, as it is."""
    found = {("module", name): thing for name, thing in vars(upstream).items()}
    for kind in CLASSES:
        found.update({(kind.__qualname__, name): thing for name, thing in vars(kind).items()})
    return {key: thing for key, thing in found.items() if key[1] not in CACHES}


BEFORE = attributes()


def is_upstream() -> bool:
    now = attributes()
    return list(now) == list(BEFORE) and all(now[key] is BEFORE[key] for key in BEFORE)


def is_patched() -> bool:
    return upstream.global_unstructured is not BEFORE["module", "global_unstructured"]


@pytest.fixture(autouse=True)
def _upstream_again() -> Iterator[None]:
    assert is_upstream()
    yield
    fastprune.unpatch()
    assert is_upstream()


@pytest.fixture
def selections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the operators that select, as they are called."""
    calls: list[str] = []

    def spy(name: str) -> Any:
        operator = getattr(fastprune.ops, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return operator(*args, **kwargs)

        return call

    for name in ("topk_masks", "topk_prune", "channel_mask", "channel_prune", "combine_masks"):
        monkeypatch.setattr(fastprune.ops, name, spy(name))
    return calls


# ---- what users do ----


class Plain(upstream.L1Unstructured):
    """Adds nothing."""


class Scheduled(upstream.L1Unstructured):
    """Its amount is a property, as of a schedule; its other attributes are named as ours."""

    scores = "scores"
    pattern = "pattern"

    def __init__(self, amount: float) -> None:
        self.steps = amount
        self.rank = self.select = self.accepts = None

    @property
    def amount(self) -> float:
        return self.steps / 2


class Twice(upstream.L1Unstructured):
    """Its mask is upstream's, and one entry less."""

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = super().compute_mask(t, default_mask)
        mask.view(-1)[0] = 0
        return mask


class Channelwise(upstream.LnStructured):
    """Another type, so another slice of the tensor in a container."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return super().compute_mask(t.view(-1, 1), default_mask.view(-1, 1)).view(t.shape)


class Both(upstream.L1Unstructured, upstream.RandomUnstructured):
    """Calls the compute_mask of each base by name."""

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = upstream.L1Unstructured.compute_mask(self, t, default_mask)
        return mask * upstream.RandomUnstructured.compute_mask(self, t, default_mask)

    @classmethod
    def apply(cls, module: nn.Module, name: str, amount: float) -> Any:  # type: ignore[override]
        # Past L1Unstructured.apply, which would call that of RandomUnstructured.
        return vars(upstream.BasePruningMethod)["apply"].__get__(None, cls)(module, name, amount)


class Scratch(upstream.BasePruningMethod):
    """Borrows a compute_mask, although it is no L1Unstructured."""

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: float) -> None:
        self.amount = amount

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return upstream.L1Unstructured.compute_mask(self, t, default_mask)


class Global(upstream.L1Unstructured):
    """Only its type differs."""

    PRUNING_TYPE = "global"


class Louder(upstream.RandomUnstructured):
    """Multiplies by three."""

    def apply_mask(self, module: nn.Module) -> Tensor:
        return super().apply_mask(module) * 3


MASK = torch.ones(4, 6).tril()
METHODS: dict[str, Callable[[nn.Module], Any]] = {
    "identity": lambda m: upstream.identity(m, "weight"),
    "l1_unstructured": lambda m: upstream.l1_unstructured(m, "weight", 0.3),
    "l1_unstructured, scores": lambda m: upstream.l1_unstructured(
        m, "weight", 5, torch.arange(24.0).view(4, 6)
    ),
    "random_unstructured": lambda m: upstream.random_unstructured(m, "weight", 0.3),
    "ln_structured": lambda m: upstream.ln_structured(m, "weight", 0.3, 2, 1),
    "random_structured": lambda m: upstream.random_structured(m, "weight", 1, 0),
    "custom_from_mask": lambda m: upstream.custom_from_mask(m, "weight", MASK),
    "Plain": lambda m: Plain.apply(m, "weight", 0.3),
    "Scheduled": lambda m: Scheduled.apply(m, "weight", 0.6),
    "Twice": lambda m: Twice.apply(m, "weight", 0.3),
    "Channelwise": lambda m: Channelwise.apply(m, "weight", 0.3, 2, 0),
    "Both": lambda m: Both.apply(m, "weight", 0.3),
    "Scratch": lambda m: Scratch.apply(m, "weight", 0.3),
    "Global": lambda m: Global.apply(m, "weight", 0.3),
    "Louder": lambda m: Louder.apply(m, "weight", 0.3),
    "global_unstructured": lambda m: upstream.global_unstructured(
        [(m, "weight"), (m, "bias")], upstream.L1Unstructured, amount=0.3
    ),
    "global_unstructured, Twice": lambda m: upstream.global_unstructured(
        [(m, "weight"), (m, "bias")], Twice, amount=3
    ),
    "global_unstructured, Scheduled": lambda m: upstream.global_unstructured(
        [(m, "weight"), (m, "bias")], Scheduled, amount=0.6
    ),
    "global_unstructured, scores, random": lambda m: upstream.global_unstructured(
        ((m, "weight"), (m, "bias")),
        upstream.RandomUnstructured,
        {(m, "bias"): torch.ones(4)},
        amount=0.3,
    ),
}
#: Of each, the operators that select for a fresh layer; and again after l1_unstructured.
SELECTING = {
    "identity": ([], []),
    "l1_unstructured": (["topk_prune"], ["topk_prune"]),
    "l1_unstructured, scores": (["topk_prune"], ["topk_prune"]),
    "random_unstructured": (["topk_masks"], ["topk_masks"]),
    "ln_structured": (["channel_prune"], ["channel_prune"]),
    "random_structured": (["channel_prune"], ["channel_prune"]),
    "custom_from_mask": ([], ["combine_masks"]),
    "Plain": (["topk_prune"], ["topk_prune"]),
    "Scheduled": (["topk_prune"], ["topk_prune"]),
    "Twice": (["topk_masks"], ["topk_masks"]),
    "Channelwise": (["channel_mask"], ["channel_mask"]),
    "Both": (["topk_masks"] * 2, ["topk_masks"] * 2),
    "Scratch": ([], []),
    "Global": (["topk_masks"], ["topk_masks"]),
    "Louder": (["topk_masks"], ["topk_masks"]),
    "global_unstructured": (["topk_prune"], ["topk_prune"]),
    "global_unstructured, Twice": (["topk_masks"], ["topk_masks", "combine_masks"]),
    "global_unstructured, Scheduled": (["topk_prune"], ["topk_prune"]),
    "global_unstructured, scores, random": (["topk_masks"], ["topk_masks"]),
}


def fresh() -> nn.Module:
    return nn.Linear(6, 4)


def described(module: nn.Module) -> dict[str, Any]:
    """A forward and a backward, hooks, keys, what remove leaves."""
    kinds = [[type(h).__qualname__, sorted(vars(h))] for h in module._forward_pre_hooks.values()]
    inner = [
        [type(m).__module__ + "." + type(m).__qualname__ for m in hook]
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, upstream.PruningContainer)
    ]
    out = module(X)
    out.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in module.named_parameters()}
    state = {key: value.clone() for key, value in module.state_dict().items()}
    pruned = upstream.is_pruned(module)
    upstream.remove(module, "weight")
    removed = [type(module.weight).__name__, module.weight.detach().clone(), list(vars(module))]
    left = [upstream.is_pruned(module), list(module.state_dict())]
    return {
        "hooks": [kinds, inner],
        "out": out.detach(),
        "gradients": gradients,
        "state": state,
        "flags": [pruned, left],
        "removed": removed,
    }


def life(method: str, first: str | None, copied: str) -> Any:
    """A layer pruned (twice), copied in some way, used, and no longer pruned."""
    torch.manual_seed(0)
    layer = fresh()
    if first is not None:
        METHODS[first](layer)
    METHODS[method](layer)
    if copied != "not":  # upstream copies no weight that carries a gradient
        with torch.no_grad():
            layer(X)
    if copied == "deepcopy":
        layer = copy.deepcopy(layer)
    elif copied == "pickle":
        layer.weight, layer.bias = layer.weight.detach(), layer.bias
        layer = pickle.loads(pickle.dumps(layer))
    elif copied == "state dict":
        twin = fresh()
        for again in [first, method] if first is not None else [method]:
            METHODS[again](twin)
        twin.load_state_dict(layer.state_dict())
        layer = twin
    return described(layer)


@pytest.mark.parametrize("copied", ["not", "deepcopy", "pickle", "state dict"])
@pytest.mark.parametrize("first", [None, "l1_unstructured", "ln_structured", "Plain"])
@pytest.mark.parametrize("method", METHODS)
def test_same_as_upstream(method: str, first: str | None, copied: str) -> None:
    expected = life(method, first, copied)
    with fastprune.patch():
        actual = life(method, first, copied)
    assert difference(actual, expected) is None, difference(actual, expected)


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_kernels_are_taken(method: str, pruned: bool, selections: list[str]) -> None:
    layer = upstream.l1_unstructured(fresh(), "weight", 0.3) if pruned else fresh()
    METHODS[method](layer)
    assert selections == []
    layer = upstream.l1_unstructured(fresh(), "weight", 0.3) if pruned else fresh()
    with fastprune.patch():
        METHODS[method](layer)
    assert selections == SELECTING[method][pruned]


def test_forward_takes_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = upstream.l1_unstructured(fresh(), "weight", 0.3)
    calls: list[int] = []
    product = fastprune._C.product_if_plain
    monkeypatch.setattr(
        fastprune.hook,
        "_C",
        mock.Mock(product_if_plain=lambda *args: calls.append(1) or product(*args)),
    )
    expected = layer(X)
    assert calls == []
    with fastprune.patch():
        assert torch.equal(layer(X), expected)
    assert calls == [1]


@pytest.mark.parametrize("method", [upstream.L1Unstructured, Plain, Twice, Channelwise])
def test_tensors_that_the_operators_do_not_take(method: Any) -> None:
    options = (1, 2, 0) if method is Channelwise else (5,)
    t = torch.randn(4, 6, dtype=torch.complex64)

    def run() -> Any:
        absent = method(*options).prune(torch.randn(4, 6, device="meta"))
        return method(*options).compute_mask(t, torch.ones(4, 6)), absent

    expected = run()
    with fastprune.patch():
        assert difference(run(), expected) is None


def test_compute_mask_of_a_container_writes_into_the_mask() -> None:
    def run() -> Any:
        method = upstream.L1Unstructured(5)
        method._tensor_name = "weight"
        mask = MASK.clone()
        container = upstream.PruningContainer(method)
        made = container.compute_mask(X[:4], mask)
        product = container.prune(X[:4], mask)
        other = MASK.double()
        return made is mask, mask, product, container.compute_mask(X[:4], other), other

    expected = run()
    assert expected[0] is True
    with fastprune.patch():
        assert difference(run(), expected) is None


def test_container_is_kept() -> None:
    layer = upstream.l1_unstructured(fresh(), "weight", 1)
    upstream.l1_unstructured(layer, "weight", 1)
    (container,) = layer._forward_pre_hooks.values()
    with fastprune.patch():
        upstream.ln_structured(layer, "weight", 1, 2, 0)
    assert list(layer._forward_pre_hooks.values()) == [container]
    assert [type(method) for method in container] == [
        upstream.L1Unstructured,
        upstream.L1Unstructured,
        upstream.LnStructured,
    ]


def test_what_failed_left_nothing() -> None:
    layer = upstream.l1_unstructured(fresh(), "weight", 1)
    upstream.l1_unstructured(layer, "weight", 1)
    (container,) = layer._forward_pre_hooks.values()
    with fastprune.patch(), pytest.raises(ValueError, match="amount=100"):
        upstream.l1_unstructured(layer, "weight", 100)
    assert list(layer._forward_pre_hooks.values()) == [container]
    assert len(container) == 2


# ---- what was there before, and what is there after ----


def test_captured_before() -> None:
    """Functions and classes that another module has imported by name."""
    l1, base, kinds = upstream.l1_unstructured, upstream.BasePruningMethod, list(CLASSES)
    everywhere = upstream.global_unstructured
    before = l1(fresh(), "weight", 0.5)
    with fastprune.patch():
        assert [thing for thing in vars(upstream).values() if inspect.isclass(thing)] == kinds
        assert upstream.is_pruned(before)
        layer = l1(fresh(), "weight", 0.5)
        (hook,) = layer._forward_pre_hooks.values()
        assert type(hook) is upstream.L1Unstructured
        assert isinstance(hook, base)
        out = before(X)
        twin = copy.deepcopy(before)  # while its weight carries a gradient
        assert torch.equal(twin(X), out)
        everywhere([(layer, "weight"), (before, "weight")], upstream.L1Unstructured, amount=4)
    expected = torch.cat([layer.weight_mask, before.weight_mask])
    assert expected.sum() == 20


def test_captured_global_gives_the_same() -> None:
    everywhere = upstream.global_unstructured

    def run(function: Any) -> Any:
        torch.manual_seed(0)
        layers = [fresh(), upstream.l1_unstructured(fresh(), "weight", 3)]
        function([(m, "weight") for m in layers], upstream.L1Unstructured, amount=0.5)
        return [described(layer) for layer in layers]

    expected = run(everywhere)
    with fastprune.patch():
        assert difference(run(everywhere), expected) is None
        assert difference(run(upstream.global_unstructured), expected) is None


@pytest.mark.parametrize("pruned_inside", [True, False])
def test_modules_outlive_it(pruned_inside: bool) -> None:
    def prune() -> nn.Module:
        torch.manual_seed(0)
        layer = upstream.l1_unstructured(fresh(), "weight", 0.3)
        upstream.ln_structured(layer, "weight", 1, 2, 0)
        upstream.global_unstructured([(layer, "weight")], upstream.L1Unstructured, amount=1)
        return layer

    def go_on(layer: nn.Module) -> Any:
        with torch.no_grad():
            layer(X)
        twin = copy.deepcopy(layer)
        upstream.random_structured(twin, "weight", 1, 1)
        return described(twin), described(layer)

    expected = go_on(prune())
    if pruned_inside:
        with fastprune.patch():
            layer = prune()
        actual = go_on(layer)
    else:
        layer = prune()
        with fastprune.patch():
            actual = go_on(layer)
    assert difference(actual, expected) is None, difference(actual, expected)


def test_compiled_before_patched_and_unpatched() -> None:
    layer = upstream.l1_unstructured(fresh(), "weight", 3)
    compiled = torch.compile(layer, backend="eager")
    assert torch.equal(compiled(X), layer(X))
    with fastprune.patch():
        assert torch.equal(compiled(X), layer(X))
        upstream.l1_unstructured(layer, "weight", 5)
        assert torch.equal(compiled(X), layer(X))
    assert torch.equal(compiled(X), layer(X))
    assert layer.weight_mask.sum() == 16


def test_loads_where_fastprune_is_not_installed(tmp_path: Path) -> None:
    layers = nn.ModuleList(fresh() for _ in range(3))
    with fastprune.patch():
        for _ in range(2):
            upstream.l1_unstructured(layers[0], "weight", 0.3)
            upstream.global_unstructured(
                [(layer, "weight") for layer in layers], upstream.L1Unstructured, amount=0.2
            )
        copied = copy.deepcopy(layers)
        with torch.no_grad():
            expected = [layer(X) for layer in copied]
        file = io.BytesIO()
        torch.save(copied, file)
    (tmp_path / "layers.pt").write_bytes(file.getvalue())
    torch.save((X, expected), tmp_path / "expected.pt")
    script = """
import sys
sys.modules["fastprune"] = None  # so that it cannot be imported
import torch
from torch.nn.utils import prune
layers = torch.load("layers.pt", weights_only=False)
x, expected = torch.load("expected.pt")
for layer, out in zip(layers, expected):
    assert torch.equal(layer(x), out)
    assert prune.is_pruned(layer)
    prune.l1_unstructured(layer, "weight", 1)
    prune.remove(layer, "weight")
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=dict(os.environ), check=True)


def test_fastprune_itself_is_as_before() -> None:
    class Positive(fastprune.L1Unstructured):
        def scores(self) -> None:
            """Not what the protocol means by the name, so upstream's compute_mask is taken."""

    def run() -> Any:
        torch.manual_seed(0)
        layers = [fresh() for _ in range(4)]
        fastprune.l1_unstructured(layers[0], "weight", 0.3)
        fastprune.ln_structured(layers[0], "weight", 1, 2, 0)
        fastprune.global_unstructured(
            [(layer, "weight") for layer in layers[:2]], fastprune.L1Unstructured, amount=0.3
        )
        fastprune.l1_unstructured(upstream.l1_unstructured(layers[2], "weight", 3), "weight", 3)
        Positive.apply(layers[3], "weight", 0.3)
        names = [type(h).__module__ for m in layers for h in m._forward_pre_hooks.values()]
        mask = torch.ones(4, 6)
        container = layers[2]._forward_pre_hooks.popitem()[1]
        layers[2].register_forward_pre_hook(container)
        container.compute_mask(layers[2].weight_orig, mask)
        return names, mask, [described(layer) for layer in layers]

    expected = run()
    with fastprune.patch():
        assert difference(run(), expected) is None, difference(run(), expected)


# ---- patch, unpatch, contexts ----


def test_stays_until_unpatch() -> None:
    fastprune.patch()
    fastprune.patch()
    assert is_patched()
    fastprune.unpatch()
    assert is_upstream()
    fastprune.unpatch()
    assert is_upstream()


def test_nested_contexts() -> None:
    with fastprune.patch():
        with fastprune.patch():
            assert is_patched()
        assert is_patched()
    assert is_upstream()


def test_overlapping_contexts() -> None:
    first, second = fastprune.patch(), fastprune.patch()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert is_patched()
    second.__exit__(None, None, None)
    assert is_upstream()


def test_one_context_used_again() -> None:
    context = fastprune.patch()
    for _ in range(2):
        with context:
            with context:
                assert is_patched()
            assert is_patched()
        assert is_upstream()


def test_context_inside_of_a_lasting_patch() -> None:
    fastprune.patch()
    with fastprune.patch():
        pass
    assert is_patched()


def test_unpatch_inside_of_a_context() -> None:
    with fastprune.patch():
        fastprune.unpatch()
        assert is_upstream()
    assert is_upstream()
    with fastprune.patch():
        fastprune.unpatch()
        fastprune.patch()
    assert is_patched()  # by the last call, which the context does not end


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_exceptions_restore(error: type[BaseException]) -> None:
    with pytest.raises(error), fastprune.patch():
        assert is_patched()
        raise error
    assert is_upstream()


def test_an_interrupt_while_patching(monkeypatch: pytest.MonkeyPatch) -> None:
    place = fastprune.patching._all_places[-1]
    monkeypatch.setattr(place, "replace", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fastprune.patch()
    assert is_upstream()


def test_threads() -> None:
    errors: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            for step in range(40):
                with fastprune.patch():
                    assert is_patched()
                    layer = nn.Linear(8, 8)
                    upstream.l1_unstructured(layer, "weight", 0.25)
                    upstream.ln_structured(layer, "weight", 1, 2, 0)
                    assert type(layer._forward_pre_hooks.popitem()[1]) is upstream.PruningContainer
                    active = layer.weight_mask.sum(1)
                    assert (active == 0).sum() == 1, (seed, step)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    assert is_upstream()


def test_pruning_while_another_thread_patches() -> None:
    """Between any two of its steps the masks are the same."""
    weight = torch.randn(8, 8)
    expected = upstream.L1Unstructured(20).compute_mask(weight, torch.ones(8, 8))
    stop = threading.Event()

    def flip() -> None:
        while not stop.is_set():
            fastprune.patch()
            fastprune.unpatch()

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        for _ in range(300):
            layer = nn.Linear(8, 8)
            layer.weight = nn.Parameter(weight.clone())
            upstream.l1_unstructured(layer, "weight", 8)
            upstream.l1_unstructured(layer, "weight", 12)
            assert torch.equal(layer.weight_mask, expected)
    finally:
        stop.set()
        thread.join()


# ---- others who replace attributes ----


def test_what_others_replaced_before_stays_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(self: Any, t: Tensor, default_mask: Tensor) -> Tensor:
        return torch.zeros_like(t)

    with monkeypatch.context() as patched:
        patched.setattr(upstream.L1Unstructured, "compute_mask", own)
        with fastprune.patch():
            layer = upstream.l1_unstructured(fresh(), "weight", 1)
            assert not layer.weight_mask.any()
        assert upstream.L1Unstructured.compute_mask is own


def test_what_others_replace_meanwhile_stays_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    mocked = mock.patch.object(upstream.L1Unstructured, "compute_mask", return_value=MASK)
    with fastprune.patch():
        mocked.start()
        layer = upstream.l1_unstructured(fresh(), "weight", 1)
        assert torch.equal(layer.weight_mask, MASK)
        fastprune.unpatch()
        layer = upstream.l1_unstructured(fresh(), "weight", 1)
        assert torch.equal(layer.weight_mask, MASK)
    mocked.stop()  # puts ours back, which works, and which the next two calls take away
    assert upstream.l1_unstructured(fresh(), "weight", 1).weight_mask.sum() == 23
    with fastprune.patch():
        assert upstream.l1_unstructured(fresh(), "weight", 1).weight_mask.sum() == 23
    assert is_upstream()


def test_signatures_and_docs_are_upstreams() -> None:
    kinds = [kind for kind in CLASSES if "compute_mask" in vars(kind)]
    before = [inspect.signature(kind.compute_mask) for kind in kinds]
    documented = [kind.compute_mask.__doc__ for kind in kinds]
    with fastprune.patch():
        assert [inspect.signature(kind.compute_mask) for kind in kinds] == before
        assert [kind.compute_mask.__doc__ for kind in kinds] == documented
        assert inspect.signature(upstream.global_unstructured).parameters.keys() == {
            "parameters",
            "pruning_method",
            "importance_scores",
            "kwargs",
        }
        assert pickle.loads(pickle.dumps(upstream.global_unstructured)) is (
            upstream.global_unstructured
        )
