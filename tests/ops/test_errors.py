"""Bad input: upstream's exception type, a message that says what was wrong, nothing changed."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune
from support.targets import Target
from support.unchanged import assert_unchanged, snapshot

# ---- modules ----


@contextmanager
def raises_and_leaves(module: nn.Module, error: type[BaseException], *words: str) -> Iterator[None]:
    """Expects an exception with these words, and an unchanged module."""
    before = snapshot(module)
    with pytest.raises(error) as caught:
        yield
    for word in words:
        assert re.search(word, str(caught.value)), f"no {word!r} in: {caught.value}"
    assert_unchanged(module, before)


def fresh() -> nn.Module:
    return nn.Linear(4, 3)


def pruned() -> nn.Module:
    return prune.l1_unstructured(nn.Linear(4, 3), "weight", 2)


def pruned_twice() -> nn.Module:
    return prune.l1_unstructured(pruned(), "weight", 2)


def pruned_by_upstream() -> nn.Module:
    return upstream.l1_unstructured(nn.Linear(4, 3), "weight", 2)


modules = pytest.mark.parametrize("make", [fresh, pruned, pruned_twice, pruned_by_upstream])
Make = Callable[[], nn.Module]

WITH_AMOUNT: dict[str, Callable[[nn.Module, Any], Any]] = {
    "l1_unstructured": lambda m, a: prune.l1_unstructured(m, "weight", a),
    "random_unstructured": lambda m, a: prune.random_unstructured(m, "weight", a),
    "ln_structured": lambda m, a: prune.ln_structured(m, "weight", a, 2, 0),
    "random_structured": lambda m, a: prune.random_structured(m, "weight", a, 0),
    "global_unstructured": lambda m, a: prune.global_unstructured(
        [(m, "weight")], prune.L1Unstructured, amount=a
    ),
}


@modules
@pytest.mark.parametrize("function", WITH_AMOUNT)
@pytest.mark.parametrize(
    ("amount", "error"),
    [
        (-1, ValueError),
        (-0.1, ValueError),
        (1.1, ValueError),
        (float("nan"), ValueError),
        ("half", TypeError),
        (None, TypeError),
        (13, ValueError),
    ],
)
def test_wrong_amount(make: Make, function: str, amount: Any, error: type[Exception]) -> None:
    module = make()
    with raises_and_leaves(module, error, "amount|NaN"):  # the latter in upstream's words
        WITH_AMOUNT[function](module, amount)


def test_amount_above_what_is_active_names_both() -> None:
    with raises_and_leaves(pruned(), ValueError, "amount=11", "=10"):
        module = pruned()
        prune.l1_unstructured(module, "weight", 11)


@modules
@pytest.mark.parametrize("dim", [2, -3, 17])
def test_wrong_dim(make: Make, dim: int) -> None:
    for apply in (
        lambda m: prune.ln_structured(m, "weight", 1, 2, dim),
        lambda m: prune.random_structured(m, "weight", 1, dim),
    ):
        module = make()
        with raises_and_leaves(module, IndexError, str(dim)):
            apply(module)


def test_fewer_than_two_dims() -> None:
    for apply in (
        lambda m: prune.ln_structured(m, "bias", 1, 2, 0),
        lambda m: prune.random_structured(m, "bias", 1, 0),
    ):
        module = fresh()
        with raises_and_leaves(module, ValueError, "dim", "1"):
            apply(module)


@modules
def test_shape_of_scores(make: Make) -> None:
    module = make()
    for apply in (
        lambda: prune.l1_unstructured(module, "weight", 1, torch.ones(4, 3)),
        lambda: prune.ln_structured(module, "weight", 1, 2, 0, torch.ones(4, 3)),
    ):
        with raises_and_leaves(
            module, AssertionError, "importance_scores", "weight", r"4, 3", r"3, 4"
        ):
            apply()


def test_number_of_scores_in_global() -> None:
    module = fresh()
    scores = {(module, "weight"): torch.ones(5)}
    with raises_and_leaves(module, IndexError, "importance_scores", "weight", "5", "3, 4"):
        prune.global_unstructured([(module, "weight")], prune.L1Unstructured, scores, amount=1)


@modules
def test_shape_of_custom_mask(make: Make) -> None:
    module = make()
    with raises_and_leaves(module, AssertionError, "mask", r"4, 3", r"3, 4"):
        prune.custom_from_mask(module, "weight", torch.ones(4, 3))


@modules
def test_device_of_scores(make: Make) -> None:
    module = make()
    scores = torch.ones(3, 4, device="meta")
    with raises_and_leaves(module, RuntimeError, "importance_scores", "weight", "meta", "cpu"):
        prune.l1_unstructured(module, "weight", 1, scores)


def test_device_of_custom_mask() -> None:
    module = fresh()
    with raises_and_leaves(module, (RuntimeError, NotImplementedError), "meta"):  # type: ignore[arg-type]
        prune.custom_from_mask(module, "weight", torch.ones(3, 4, device="meta"))


def test_devices_of_global_parameters() -> None:
    here, there = fresh(), nn.Linear(4, 3, device="meta")
    before = list(there.state_dict()), dict(there._forward_pre_hooks)
    with raises_and_leaves(here, TypeError, "device|meta"):
        prune.global_unstructured(
            [(here, "weight"), (there, "weight")], prune.L1Unstructured, amount=1
        )
    assert before == (list(there.state_dict()), dict(there._forward_pre_hooks))


def test_name_that_is_nothing() -> None:
    module = fresh()
    with raises_and_leaves(module, AttributeError, "nothing"):
        prune.l1_unstructured(module, "nothing", 1)


def test_name_that_is_no_parameter() -> None:
    module = nn.Linear(4, 3, bias=False)
    module.register_buffer("running", torch.ones(3))
    module.plain = torch.ones(3)  # type: ignore[assignment]
    module.number = 3  # type: ignore[assignment]
    for name in ("running", "plain", "number", "bias"):
        with raises_and_leaves(module, TypeError, name, "Parameter"):
            prune.l1_unstructured(module, name, 1)


def test_pruned_twice_by_hand() -> None:
    module = pruned()
    second = prune.L1Unstructured(1)
    second._tensor_name = "weight"
    module.register_forward_pre_hook(second)
    with raises_and_leaves(module, AssertionError, "multiple pruning hooks", "weight"):
        prune.l1_unstructured(module, "weight", 1)


def test_global_arguments() -> None:
    module = fresh()
    pairs = [(module, "weight"), (module, "bias")]
    with raises_and_leaves(module, TypeError, "Iterable"):
        prune.global_unstructured(module.weight.shape.numel(), prune.L1Unstructured, amount=1)
    with raises_and_leaves(module, TypeError, "importance_scores", "dict"):
        prune.global_unstructured(pairs, prune.L1Unstructured, [torch.ones(3, 4)], amount=1)
    with raises_and_leaves(module, TypeError, "unstructured", "LnStructured"):
        prune.global_unstructured(pairs, prune.LnStructured, amount=1, n=2)
    with raises_and_leaves(module, ValueError, "amount=16", "=15"):
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=16)
    with raises_and_leaves(module, AttributeError, "nothing"):
        prune.global_unstructured([*pairs, (module, "nothing")], prune.L1Unstructured, amount=1)


def test_remove_what_is_not_pruned() -> None:
    module = fresh()
    with raises_and_leaves(module, ValueError, "weight"):
        prune.remove(module, "weight")


def test_container_takes_pruning_methods_of_one_tensor() -> None:
    method = prune.L1Unstructured(1)
    method._tensor_name = "weight"
    container = prune.PruningContainer(method)
    other = prune.L1Unstructured(1)
    other._tensor_name = "bias"
    with pytest.raises(ValueError, match=r"weight.*bias"):
        container.add_pruning_method(other)
    with pytest.raises(TypeError, match="not a BasePruningMethod"):
        container.add_pruning_method(10)  # type: ignore[arg-type]
    assert list(container) == [method]
    for library in (prune, upstream):
        for no_method in (3, [method], library.Identity()):
            with pytest.raises(AttributeError, match=r"_tensor_name|tensor's name, got"):
                library.PruningContainer(no_method)
    with pytest.raises(TypeError, match="not a BasePruningMethod"):
        prune.PruningContainer(method, 3)  # type: ignore[arg-type]


def test_prune_with_scores_of_another_shape() -> None:
    with pytest.raises(AssertionError, match=r"importance_scores.*\[4, 3\].*\[3, 4\]"):
        prune.L1Unstructured(1).prune(torch.ones(3, 4), importance_scores=torch.ones(4, 3))


# ---- operators: (arguments, exception, words of the message) ----

T = torch.ones(3, 4)
TOPK: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    (([T], [torch.ones(4, 3)], 1), RuntimeError, r"masks\[0\].*\[3, 4\].*\[4, 3\]"),
    (([T, T], [T], 1), RuntimeError, r"2 scores.*got 1"),
    (([T, T.double()], [], 1), RuntimeError, r"scores\[1\].*[Ff]loat.*[Dd]ouble"),
    (([T, T], [T, T.double()], 1), RuntimeError, r"masks\[1\].*[Ff]loat.*[Dd]ouble"),
    (([T.int()], [], 1), NotImplementedError, r"scores\[0\].*float64.*[Ii]nt"),
    (([T.cfloat()], [], 1), NotImplementedError, r"scores\[0\].*float64.*[Cc]omplex"),
    (([T], [T.cfloat()], 1), NotImplementedError, r"masks\[0\].*[Cc]omplex"),
    (([T.to_sparse()], [], 1), RuntimeError, r"topk_masks|[Ss]parse"),
    (([T], [], -1), ValueError, r"amount=-1"),
    (([T], [], 13), ValueError, r"amount=13.*=12"),
    (([T], [], -0.1), ValueError, r"amount=-0.1"),
    (([T], [], 1.5), ValueError, r"amount=1.5"),
    (([T], [], float("nan")), ValueError, r"amount=nan"),
    (([T, T], [], 1, [T]), RuntimeError, r"topk_masks\(\).*factor.*2 scores.*got 1"),
    (([T, T], [], [1]), RuntimeError, r"topk_masks\(\).*one for each of 2 scores, got 1"),
    (([T], [], []), RuntimeError, r"one for each of 1 scores, got 0"),
    (([T], [], 1, [torch.ones(4, 1)]), RuntimeError, r"factors\[0\].*\[3, 4\].*\[4, 1\]"),
    (([T], [], 1, [T.int()]), NotImplementedError, r"factors\[0\].*float64.*[Ii]nt"),
]
CHANNELS: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    ((torch.ones(3), T, torch.ones(4, 3), 1, 0), RuntimeError, r"mask.*\[3, 4\].*\[4, 3\]"),
    ((torch.ones(4), T, None, 1, 0), RuntimeError, r"scores.*3 channels.*\[4\]"),
    ((torch.ones(3, 1), T, None, 1, 0), RuntimeError, r"scores.*3 channels.*\[3, 1\]"),
    ((torch.ones(3), T, None, 1, 2), IndexError, r"2.*\[3, 4\]"),
    ((torch.ones(3), T, None, 1, -3), IndexError, r"-3.*\[3, 4\]"),
    ((torch.ones(3), torch.ones(3), None, 1, 0), ValueError, r"two.*dims.*\[3\]"),
    ((torch.ones(3), T.int(), None, 1, 0), NotImplementedError, r"expected (like|t) to be .*Int"),
    ((torch.ones(3).int(), T, None, 1, 0), NotImplementedError, r"scores.*[Ii]nt"),
    ((torch.ones(3), T, None, 4, 0), ValueError, r"amount=4.*=3"),
    ((torch.ones(3), T, None, -1, 0), ValueError, r"amount=-1"),
    ((torch.ones(3), T, None, 1.5, 0), ValueError, r"amount=1.5"),
]
NORMS: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    ((T, 2, 2), IndexError, r"2.*\[3, 4\]"),
    ((T, 2, -3), IndexError, r"-3.*\[3, 4\]"),
    ((torch.ones(3), 2, 0), ValueError, r"two.*dims.*\[3\]"),
    ((T.int(), 2, 0), NotImplementedError, r"expected t to be .*Int"),
    ((T.cfloat(), 2, 0), NotImplementedError, r"t .*[Cc]omplex"),
]
COMBINE: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    ((T, torch.ones(4, 3)), RuntimeError, r"new_mask.*\[3, 4\].*\[4, 3\]"),
    ((T, torch.ones(4)), RuntimeError, r"new_mask.*\[3, 4\].*\[4\]"),
    ((T.cfloat(), T), NotImplementedError, r"old_mask.*[Cc]omplex"),
    ((T, T.cfloat()), NotImplementedError, r"new_mask.*[Cc]omplex"),
]
MULTIPLY: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    ((T, torch.ones(4, 3)), RuntimeError, r"mask.*\[3, 4\].*\[4, 3\]"),
    ((T, torch.ones(3)), RuntimeError, r"mask.*\[3, 4\].*\[3\]"),
]
LISTS: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    (([T, T], [T]), RuntimeError, r"2.*1"),
    (([T, T], [T, torch.ones(4, 3)]), RuntimeError, r"masks\[1\].*\[3, 4\].*\[4, 3\]"),
]
#: Errors that name the operator that was called.
PRUNE: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    (([T], [], [T], 1, [torch.ones(4, 1)]), RuntimeError, r"topk_prune\(\).*factors\[0\]"),
    (([T], [torch.ones(4, 3)], [T], 1), RuntimeError, r"topk_prune\(\).*masks\[0\]"),
    (([T], [], [torch.ones(4, 3)], 1), RuntimeError, r"topk_prune\(\).*ts\[0\]"),
    (([T, T], [], [T, T], [1]), RuntimeError, r"topk_prune\(\).*one for each of 2 scores, got 1"),
]
CASES = [
    (op, *case)
    for op, cases in [
        ("topk_masks", TOPK),
        ("topk_prune", PRUNE),
        ("channel_mask", CHANNELS),
        ("channel_prune", CHANNELS),
        ("channel_norms", NORMS),
        ("combine_masks", COMBINE),
        ("masked_mul", MULTIPLY),
        ("masked_mul_", MULTIPLY),
        ("masked_muls", LISTS),
        ("masked_muls_", LISTS),
    ]
    for case in cases
]


def moved(argument: Any, device: str) -> Any:
    if isinstance(argument, list):
        return [moved(part, device) for part in argument]
    return argument.to(device, copy=True) if isinstance(argument, Tensor) else argument


@pytest.mark.parametrize(
    ("op", "args", "error", "message"), CASES, ids=[f"{c[0]}-{c[3]}" for c in CASES]
)
def test_operators(
    target: Target, op: str, args: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    args = tuple(moved(argument, target.device) for argument in args)
    with pytest.raises(error) as caught:
        getattr(target.ops, op)(*args)
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)


@pytest.mark.parametrize("name", ["masked_muls", "masked_muls_"])
def test_lists_of_other_lengths_where_the_operator_decomposes(name: str) -> None:
    op = getattr(torch.ops.fastprune, name).default
    with pytest.raises(RuntimeError, match="as many masks as tensors, 2, got 1"):
        torch.jit.trace(lambda t: tuple(op([t, t], [t])), (T,))
    with pytest.raises(RuntimeError, match="as many masks as tensors, 2, got 1"):
        torch.vmap(lambda t: tuple(op([t, t], [t])))(T)


def test_mask_on_another_device(target: Target) -> None:
    t = T.to(target.device)
    mask = torch.ones(3, 4, device="meta")
    for op, args in {
        "topk_masks": ([t], [mask], 1),
        "masked_mul": (t, mask),
        "combine_masks": (t, mask),
        "channel_mask": (torch.ones(3, device=target.device), t, mask, 1, 0),
        "channel_prune": (torch.ones(3, device=target.device), t, mask, 1, 0),
    }.items():
        with pytest.raises(RuntimeError):
            getattr(target.ops, op)(*args)


@pytest.mark.skipif(prune._C.build_info()["cuda"], reason="this build has CUDA kernels")
@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("topk_masks", ([T], [], [1], [])),
        ("topk_prune", ([T], [], [T], [1], [])),
        ("channel_norms", (T, 2.0, 0)),
        ("channel_mask", (torch.ones(3), T, None, 1, 0)),
        ("channel_prune", (torch.ones(3), T, None, 1, 0)),
        ("combine_masks", (T, T)),
        ("masked_mul", (T, T)),
        ("masked_mul_", (T, T)),
        ("masked_muls", ([T], [T])),
        ("masked_muls_", ([T], [T])),
    ],
)
def test_cuda_tensor_on_a_cpu_only_build(op: str, args: tuple[Any, ...]) -> None:
    cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    with pytest.raises(NotImplementedError, match=rf"{op}\(\).*without CUDA.*FORCE_CUDA=1 pip"):
        getattr(torch.ops.fastprune, op).default.redispatch(cuda, *args)
