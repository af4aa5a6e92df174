"""replace=True: a method in the place of the newest one of a tensor."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune
from support.unchanged import assert_unchanged, snapshot


def layer(rows: int = 6, cols: int = 8, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(cols, rows)


def lowest(scores: Tensor, count: int, old: Tensor) -> Tensor:
    order = scores.detach().flatten().argsort(stable=True)
    order = order[old.flatten()[order] == 1]
    mask = old.flatten().clone()
    mask[order[:count]] = 0
    return mask.view(old.shape)


def hook_of(module: nn.Module) -> Any:
    (hook,) = module._forward_pre_hooks.values()
    return hook


def assert_consistent(module: nn.Module) -> None:
    assert torch.equal(module.weight, module.weight_orig * module.weight_mask)
    assert list(module.state_dict()) == ["bias", "weight_orig", "weight_mask"]


def test_an_unpruned_tensor_is_pruned() -> None:
    module = prune.l1_unstructured(layer(), "weight", 10, replace=True)
    assert torch.equal(module.weight_mask, lowest(module.weight_orig.abs(), 10, torch.ones(6, 8)))
    assert vars(hook_of(module)).keys() == {"amount", "_tensor_name"}
    assert_consistent(module)


def test_the_only_method() -> None:
    module = layer()
    weight = module.weight
    prune.l1_unstructured(module, "weight", 40)
    before = hook_of(module)
    prune.l1_unstructured(module, "weight", 10, replace=True)
    assert isinstance(hook_of(module), prune.L1Unstructured) and hook_of(module) is not before
    assert torch.equal(module.weight_mask, lowest(weight.abs(), 10, torch.ones(6, 8)))
    assert module.weight_orig is weight
    assert_consistent(module)
    module(torch.randn(2, 8)).sum().backward()
    assert torch.equal(weight.grad != 0, module.weight_mask != 0)
    prune.remove(module, "weight")
    assert int((module.weight == 0).sum()) == 10


def test_a_rising_schedule_is_one_shot() -> None:
    module, once = layer(), layer()
    for sparsity in (0.1, 0.3, 0.5, 0.8):
        prune.l1_unstructured(module, "weight", sparsity=sparsity, replace=True)
    prune.l1_unstructured(once, "weight", sparsity=0.8)
    assert torch.equal(module.weight_mask, once.weight_mask)
    assert isinstance(hook_of(module), prune.L1Unstructured)


def test_what_only_the_newest_pruned_returns() -> None:
    module = layer()
    given = torch.ones(6, 8)
    given[0] = 0
    prune.custom_from_mask(module, "weight", given)
    prune.l1_unstructured(module, "weight", 20)
    with torch.no_grad():
        module.weight_orig.copy_(module.weight_orig.roll(1))
    for count in (5, 30, 12):
        prune.l1_unstructured(module, "weight", count, replace=True)
        expected = lowest((module.weight_orig * given).abs(), count, given)
        assert torch.equal(module.weight_mask, expected)
        assert [type(m).__name__ for m in hook_of(module)] == ["CustomFromMask", "L1Unstructured"]
        assert_consistent(module)


class Step(NamedTuple):
    """A method of a chain: its kind, the mask since, and whether it keeps the mask of before."""

    kind: str
    mask: Tensor
    keeps: bool


def is_known(steps: list[Step]) -> bool:
    """Whether the mask before the last one is, as the documentation has it.

    A round of global_unstructured that was not followed by a given mask shares that of a later one.
    """
    *earlier, newest = steps
    if not earlier or newest.keeps or newest.kind == "identity":
        return True
    kind, is_round = oldest_that_counts(steps, len(earlier))
    return kind in SAYING and not (is_round and newest.kind == "global")


SAYING = ("global", "given", "identity")


def oldest_that_counts(steps: list[Step], count: int) -> tuple[str, bool]:
    """Of the methods of which the masks are combined, the first: its kind, and if it is a round.

    One that does not say what it prunes, if there is any.
    """
    last_given = max((i for i, step in enumerate(steps) if step.kind == "given"), default=-1)
    kind = ""
    for i in reversed(range(count)):
        kind = steps[i].kind
        if kind == "global" and i > last_given:
            return kind, True
        if kind not in SAYING:
            break
    return kind, False


def by_value(t: Tensor, mask: Tensor | None) -> Tensor:
    return t


@pytest.mark.parametrize("seed", range(30))
def test_chains_of_calls(seed: int) -> None:
    """By a list of masks: stacking appends to it, replacing takes the last one away before."""
    draw = random.Random(seed)
    module = layer()
    t = module.weight.detach().clone()
    steps: list[Step] = []
    is_copy = False
    for number in range(14):
        kind = draw.choice(["l1", "score", "global", "identity", "given", "local"])
        replace = draw.random() < 0.5
        options: dict[str, Any] = {"replace": True} if replace else {}
        if replace and steps and not is_known(steps):
            before = snapshot(module)
            with pytest.raises(ValueError, match="expected the mask before the newest"):
                prune.l1_unstructured(module, "weight", 3, **options)
            assert_unchanged(module, before)
            continue
        keeps = replace and len(steps) > 0
        if keeps:
            steps.pop()
        elif is_copy and steps and steps[-1].kind in SAYING:
            keeps = oldest_that_counts(steps, len(steps))[0] in SAYING
        is_copy = False
        old = steps[-1].mask if steps else torch.ones(6, 8)
        count = draw.randrange(int(old.sum()) // 3 + 1)
        given = t.gt(number / 20 - 0.5)
        pairs = [(module, "weight")]
        if kind == "l1":
            prune.l1_unstructured(module, "weight", count, **options)
        elif kind == "global":
            prune.global_unstructured(pairs, prune.L1Unstructured, amount=count, **options)
        elif kind == "local":
            prune.local_unstructured(pairs, prune.L1Unstructured, count, **options)
        elif kind == "score":
            prune.l1_unstructured(module, "weight", count, score=by_value, **options)
        elif kind == "given":
            prune.custom_from_mask(module, "weight", given, **options)
        else:
            prune.identity(module, "weight", **options)
        if kind == "given":
            mask = old * given
        elif kind == "identity":
            mask = old
        else:
            mask = lowest(t if kind == "score" else t.abs(), count, old)
        steps.append(Step(kind, mask, keeps and len(steps) > 0))
        if draw.random() < 0.2:
            module.weight = module.weight.detach()
            module = pickle.loads(pickle.dumps(module))
            is_copy = True
        assert torch.equal(module.weight_mask, mask), steps
        assert len(getattr(hook_of(module), "_pruning_methods", [0])) == len(steps)
        assert_consistent(module)


def test_rounds_over_several_layers() -> None:
    a, b = layer(), layer(seed=1)
    pairs = [(a, "weight"), (b, "weight")]
    prune.l1_unstructured(a, "weight", 7)
    prune.identity(a, "weight")
    old = torch.stack([a.weight_mask.clone(), torch.ones(6, 8)])
    t = torch.stack([a.weight_orig, b.weight]).detach()
    for sparsity in (0.3, 0.7, 0.5):
        prune.global_unstructured(pairs, prune.L1Unstructured, sparsity=sparsity, replace=True)
        expected = lowest((t * old).abs(), round(96 * sparsity) - 7, old)
        assert torch.equal(torch.stack([a.weight_mask, b.weight_mask]), expected)
        assert [type(m).__name__ for m in hook_of(a)] == ["L1Unstructured", "CustomFromMask"]
        assert isinstance(hook_of(b), prune.CustomFromMask)


def test_rounds_that_share_a_mask() -> None:
    module = layer()
    pairs = [(module, "weight")]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=10)
    first = module.weight_mask.clone()
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=10)
    before = snapshot(module)
    with pytest.raises(ValueError, match="of which it is not kept"):
        prune.l1_unstructured(module, "weight", 1, replace=True)
    assert_unchanged(module, before)
    module = layer()
    pairs = [(module, "weight")]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=10)
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=10, replace=True)
    assert torch.equal(module.weight_mask, first)  # the first one was the only one
    prune.identity(module, "weight")
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=20, replace=True)
    prune.l1_unstructured(module, "weight", 1, replace=True)
    assert torch.equal(module.weight_mask, lowest(module.weight_orig.abs(), 11, torch.ones(6, 8)))
    round_, _ = hook_of(module)
    assert torch.equal(round_.mask, first)
    prune.custom_from_mask(module, "weight", torch.ones(6, 8), replace=True)
    assert torch.equal(module.weight_mask, first)


def test_only_methods_after_a_round_count() -> None:
    module = layer()
    prune.l1_unstructured(module, "weight", 5)
    prune.global_unstructured([(module, "weight")], prune.L1Unstructured, amount=5)
    base = module.weight_mask.clone()
    prune.random_unstructured(module, "weight", 20)
    prune.l1_unstructured(module, "weight", 2, replace=True)
    assert torch.equal(module.weight_mask, lowest(module.weight_orig.abs() * base, 2, base))


def test_the_mask_of_before_takes_a_bit_an_entry() -> None:
    module = layer(64, 64)
    prune.l1_unstructured(module, "weight", 100)
    prune.identity(module, "weight")
    prune.l1_unstructured(module, "weight", 100, replace=True)
    base = vars(hook_of(module)[-1])["_fastprune_base"]
    assert base.bits.numel() * base.bits.element_size() == 64 * 64 // 8
    once = prune.l1_unstructured(layer(), "weight", 3, replace=True)
    assert "_fastprune_base" not in vars(hook_of(once))


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_copies(copied: Callable[[nn.Module], nn.Module]) -> None:
    module = layer()
    prune.l1_unstructured(module, "weight", 5)
    base = module.weight_mask.clone()
    prune.identity(module, "weight")
    prune.l1_unstructured(module, "weight", 20, replace=True)
    module.weight = module.weight.detach()
    module = copied(module)
    prune.l1_unstructured(module, "weight", 2, replace=True)
    assert torch.equal(module.weight_mask, lowest(module.weight_orig.abs() * base, 2, base))


@pytest.mark.parametrize(
    "prune_it",
    [
        lambda m: prune.random_unstructured(m, "weight", 5, replace=True),
        lambda m: prune.ln_structured(m, "weight", 2, 2, 0, replace=True),
        lambda m: prune.random_structured(m, "weight", 2, 0, replace=True),
        lambda m: prune.custom_from_mask(m, "weight", torch.eye(6, 8), replace=True),
        lambda m: prune.identity(m, "weight", replace=True),
        lambda m: prune.nm_structured(m, "weight", 2, 4, replace=True),
        lambda m: prune.row_unstructured(m, "weight", 0.5, replace=True),
        lambda m: prune.block_structured(m, "weight", 0.5, (2, 2), replace=True),
        lambda m: prune.tied_structured([(m, "weight", 0)], 2, replace=True),
        lambda m: prune.Unstructured.apply(m, "weight", 5, score=lambda t, k: t, replace=True),
    ],
)
def test_every_function(prune_it: Callable[[nn.Module], Any]) -> None:
    """As on a fresh layer, since the only method is replaced."""
    module, fresh = prune.l1_unstructured(layer(), "weight", 30), layer()
    for each in (module, fresh):
        torch.manual_seed(5)
        prune_it(each)
    assert torch.equal(module.weight_mask, fresh.weight_mask)
    assert not isinstance(hook_of(module), prune.PruningContainer)


def test_parametrized() -> None:
    module = layer()
    t = module.weight.detach().clone()
    prune.parametrized(module, "weight", prune.L1Unstructured(30))
    for count in (10, 20, 5):
        prune.l1_unstructured(module, "weight", count, replace=True)
        assert torch.equal(module.weight, t * lowest(t.abs(), count, torch.ones(6, 8)))
        (masked,) = module.parametrizations["weight"]
        assert isinstance(masked.method, prune.L1Unstructured)
    prune.identity(module, "weight")
    base = masked.mask.clone()
    for count in (10, 3):
        prune.l1_unstructured(module, "weight", count, replace=True)
        assert torch.equal(masked.mask, lowest(t.abs() * base, count, base))
    before = {**vars(masked)}
    with pytest.raises(ValueError, match="number of parameters to prune"):
        prune.l1_unstructured(module, "weight", 1000, replace=True)
    assert masked.method is before["method"] and len(masked.method) == 2


def test_cached() -> None:
    module, plain = layer(), layer()
    for each in (module, plain):
        prune.l1_unstructured(each, "weight", 30)
    with prune.cached(module):
        prune.l1_unstructured(module, "weight", 10, replace=True)
        prune.l1_unstructured(plain, "weight", 10, replace=True)
        assert torch.equal(module.weight, plain.weight)
        with pytest.raises(ValueError, match="number of parameters to prune"):
            prune.l1_unstructured(module, "weight", 1000, replace=True)
        assert torch.equal(module.weight, plain.weight)
    assert isinstance(hook_of(module), prune.L1Unstructured)
    assert torch.equal(module.weight_mask, plain.weight_mask)


def test_in_place_is_refused() -> None:
    module = prune.in_place(prune.l1_unstructured(layer(), "weight", 30))
    before = module.weight.detach().clone()
    with pytest.raises(NotImplementedError, match=r"prune\.restore"):
        prune.l1_unstructured(module, "weight", 1, replace=True)
    assert torch.equal(module.weight, before)
    prune.restore(module)
    prune.l1_unstructured(module, "weight", 1, replace=True)
    assert int(module.weight_mask.sum()) == 47


def test_lstm_and_attention() -> None:
    lstm = nn.LSTM(4, 5)
    prune.l1_unstructured(lstm, "weight_ih_l0", 30)
    prune.l1_unstructured(lstm, "weight_ih_l0", 10, replace=True)
    assert int((lstm.weight_ih_l0 == 0).sum()) == 10
    lstm(torch.randn(3, 2, 4))
    attention = nn.MultiheadAttention(8, 2)
    out, x = attention.out_proj, torch.randn(3, 2, 8)
    expected = copy.deepcopy(out.weight)
    prune.l1_unstructured(out, "weight", 30)
    prune.l1_unstructured(out, "weight", 10, replace=True)
    assert torch.equal(out.weight, expected * lowest(expected.abs(), 10, torch.ones(8, 8)))
    attention(x, x, x)
    prune.remove(out, "weight")
    assert type(out).__name__ == "NonDynamicallyQuantizableLinear"


def test_a_parameter_of_two_modules() -> None:
    a, b = layer(), layer()
    b.weight = a.weight
    t = a.weight.detach().clone()
    pairs = [(a, "weight"), (b, "weight")]
    for count in (30, 10):
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=count, replace=True)
        expected = lowest(t.abs(), count, torch.ones(6, 8))
        assert torch.equal(a.weight_mask, expected) and torch.equal(b.weight_mask, expected)
    for count in (20, 5):
        prune.local_unstructured(pairs, prune.L1Unstructured, count, replace=True)
        expected = lowest(t.abs(), count, torch.ones(6, 8))
        assert torch.equal(a.weight_mask, expected) and torch.equal(b.weight_mask, expected)
    # By one of the modules alone: what the other has pruned stays so.
    prune.random_unstructured(a, "weight", 3, replace=True)
    assert not a.weight_mask[expected == 0].any()
    assert int(b.weight_mask.sum()) == 43


def test_hooks_of_upstream() -> None:
    module = layer()
    upstream.custom_from_mask(module, "weight", torch.eye(6, 8))
    upstream.l1_unstructured(module, "weight", 2)
    prune.l1_unstructured(module, "weight", 1, replace=True)
    assert int(module.weight_mask.sum()) == 5
    assert [type(m) for m in hook_of(module)] == [upstream.CustomFromMask, prune.L1Unstructured]


def test_order_of_hooks() -> None:
    module, calls = prune.l1_unstructured(layer(), "weight", 4), []
    module.register_forward_pre_hook(lambda m, x: calls.append("mine"))
    prune.l1_unstructured(module, "weight", 2, replace=True)
    again = prune.l1_unstructured(layer(), "weight", 4)
    again.register_forward_pre_hook(lambda m, x: calls.append("mine"))
    prune.l1_unstructured(again, "weight", 2)
    for each in (module, again):  # last, as after any repeated prune
        assert isinstance(list(each._forward_pre_hooks.values())[1], prune.BasePruningMethod)


class Replaces(prune.BasePruningMethod):
    """A user's, to which ``replace`` means something else."""

    PRUNING_TYPE = "unstructured"

    def __init__(self, replace: bool = True) -> None:
        self.replace = replace

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return default_mask


class TakesAny(Replaces):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)


@pytest.mark.parametrize("kind", [Replaces, TakesAny])
def test_a_users_argument_of_that_name(kind: Any) -> None:
    module = prune.l1_unstructured(layer(), "weight", 4)
    for replace in (True, False):
        assert kind.apply(module, "weight", replace=replace)[-1].replace is replace
    pairs = [(module, "weight")]
    prune.global_unstructured(pairs, kind, replace=False)
    assert len(hook_of(module)) == 4
    prune.global_unstructured(pairs, lambda **options: kind(**options), replace=False)
    assert len(hook_of(module)) == 5
    assert int(module.weight_mask.sum()) == 44


def test_failures_leave_everything() -> None:
    module, other = layer(), layer(seed=1)
    for each in (module, other):
        prune.l1_unstructured(each, "weight", 5)
    prune.random_unstructured(other, "weight", 5)
    pairs = [(module, "weight"), (other, "weight")]
    before = snapshot(module), snapshot(other)
    for call in (
        lambda: prune.l1_unstructured(module, "weight", 1000, replace=True),
        lambda: prune.l1_unstructured(module, "weight", 0.5, factor=torch.ones(3), replace=True),
        lambda: prune.l1_unstructured(other, "weight", 1, replace=True),
        lambda: prune.global_unstructured(pairs, prune.L1Unstructured, amount=1, replace=True),
        lambda: prune.local_unstructured(pairs, prune.L1Unstructured, 1, replace=True),
    ):
        with pytest.raises((ValueError, RuntimeError)):
            call()
        assert_unchanged(module, before[0])
        assert_unchanged(other, before[1])


def loaded(module: nn.Module, mask: Tensor, **how: Any) -> nn.Module:
    """The module, with a state dict in which its mask is ``mask``."""
    key = next(key for key in module.state_dict() if key.endswith("mask"))
    state = {k: v.clone() for k, v in module.state_dict().items()}
    module.load_state_dict({**state, key: mask.to(state[key].dtype)}, **how)
    return module


def _attached(mask: Tensor) -> nn.Module:
    state = {"weight_orig": torch.randn(6, 8), "weight_mask": mask, "bias": torch.randn(6)}
    return prune.attach(layer(), state)


def _given(mask: Tensor) -> nn.Module:
    return prune.custom_from_mask(layer(), "weight", torch.ones(6, 8))


def _written(mask: Tensor) -> nn.Module:
    module = prune.identity(layer(), "weight")
    with torch.no_grad():
        module.weight_mask.copy_(mask)
    return module


def _by_parametrization(mask: Tensor) -> nn.Module:
    return prune.parametrized(layer(), "weight", prune.Identity())


#: Ways to a mask that no method has made: it comes from a state dict, or is written.
NOT_MADE: dict[str, Callable[[Tensor], nn.Module]] = {
    "identity": lambda mask: loaded(prune.identity(layer(), "weight"), mask),
    "custom_from_mask": lambda mask: loaded(_given(mask), mask),
    "attach": lambda mask: loaded(_attached(mask), mask),
    "attach, double": lambda mask: loaded(_attached(mask).double(), mask),
    "attach, copy": lambda mask: loaded(copy.deepcopy(_attached(mask)), mask),
    "attach, pickle": lambda mask: loaded(pickle.loads(pickle.dumps(_attached(mask))), mask),
    "attach, assign": lambda mask: loaded(_attached(mask), mask, assign=True),
    "attach, load, double": lambda mask: loaded(_attached(mask), mask).double(),
    "attach, load, copy": lambda mask: copy.deepcopy(loaded(_attached(mask), mask)),
    "in place": lambda mask: prune.restore(
        loaded(prune.in_place(prune.identity(layer(), "weight")), mask)
    ),
    "written": _written,
    "parametrized": lambda mask: loaded(_by_parametrization(mask), mask),
    "upstream's": lambda mask: loaded(upstream.identity(layer(), "weight"), mask),
}


@pytest.mark.parametrize("way", NOT_MADE)
@pytest.mark.parametrize("again", ["one", "global"])
def test_a_mask_that_no_method_has_made_stays(way: str, again: str) -> None:
    old = (torch.rand(6, 8, generator=torch.Generator().manual_seed(1)) > 0.3).float()
    module = NOT_MADE[way](old)

    def update(count: int, **how: Any) -> Tensor:
        if again == "one":
            prune.l1_unstructured(module, "weight", count, **how)
        else:
            pairs = [(module, "weight")]
            prune.global_unstructured(pairs, prune.L1Unstructured, amount=count, **how)
        return next(b for name, b in module.named_buffers() if name.endswith("mask"))

    weight = module.weight.detach().clone()
    zeros = int((old == 0).sum())
    assert int((update(9) == 0).sum()) == zeros + 9
    for count in (4, 20, 7):
        mask = update(count, replace=True)
        assert torch.equal(mask.float(), lowest(weight.abs(), count, old))


def test_a_mask_in_place_that_no_method_has_made_stays() -> None:
    old = (torch.rand(6, 8, generator=torch.Generator().manual_seed(1)) > 0.3).float()
    module = loaded(prune.in_place(prune.identity(layer(), "weight")), old)
    prune.l1_unstructured(module, "weight", 9)
    prune.restore(module)
    prune.l1_unstructured(module, "weight", 4, replace=True)
    assert int((module.weight_mask == 0).sum()) == int((old == 0).sum()) + 4
    assert not module.weight_mask[old == 0].any()
