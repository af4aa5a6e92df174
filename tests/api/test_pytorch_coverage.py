"""What PyTorch's own tests of pruning cover, one test for each of the 34, by its name there.

Written anew, and run with upstream too, so that an expectation that only we meet is noticed.
`make clients` runs PyTorch's file itself.
"""

import io
import pickle
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[fastprune, upstream], ids=["fastprune", "upstream"])
def prune(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def layers() -> Iterator[tuple[nn.Module, str]]:
    """Modules of several kinds, and each parameter of theirs."""
    for make in (lambda: nn.Linear(6, 4), lambda: nn.Conv3d(3, 2, 2), lambda: nn.Conv1d(4, 5, 3)):
        for name in ("weight", "bias"):
            yield make(), name


def holding(values: list[list[float]]) -> nn.Module:
    """A Linear with a given weight."""
    weight = torch.tensor(values)
    module = nn.Linear(weight.shape[1], weight.shape[0])
    module.weight = nn.Parameter(weight)
    return module


def hook_of(module: nn.Module) -> Any:
    (hook,) = module._forward_pre_hooks.values()
    return hook


def with_mask(prune: ModuleType, module: nn.Module, mask: Tensor) -> nn.Module:
    """Prune by a random method that a mock has given this mask."""
    with mock.patch.object(prune.RandomUnstructured, "compute_mask", return_value=mask):
        prune.random_unstructured(module, "weight", amount=0.7)
    return module


def test_validate_pruning_amount_init(prune: ModuleType) -> None:
    for wrong, error in (("many", TypeError), (-3, ValueError), (1.01, ValueError)):
        with pytest.raises(error):
            prune._validate_pruning_amount_init(wrong)
        for method in (prune.L1Unstructured, prune.RandomUnstructured, prune.RandomStructured):
            with pytest.raises(error):
                method(wrong)
    for right in (0, 7, 10**9, 0.0, 0.5, 1.0):
        prune._validate_pruning_amount_init(right)


def test_validate_pruning_amount(prune: ModuleType) -> None:
    with pytest.raises(ValueError, match="amount=8"):
        prune._validate_pruning_amount(8, 7)
    for amount, size in ((0.9, 0), (7, 7), (0, 0), (3, 7)):
        prune._validate_pruning_amount(amount, size)


def test_compute_nparams_to_prune(prune: ModuleType) -> None:
    for amount, size, expected in ((0, 9, 0), (4, 9, 4), (1, 9, 1), (1.0, 9, 9), (0.5, 9, 4)):
        assert prune._compute_nparams_toprune(amount, size) == expected


def test_random_pruning_sizes(prune: ModuleType) -> None:
    for module, name in layers():
        shape = getattr(module, name).shape
        prune.random_unstructured(module, name, amount=0.3)
        for suffix in ("", "_orig", "_mask"):
            assert getattr(module, name + suffix).shape == shape


def test_random_pruning_orig(prune: ModuleType) -> None:
    for module, name in layers():
        parameter = getattr(module, name)
        before = parameter.detach().clone()
        prune.random_unstructured(module, name, amount=0.3)
        assert getattr(module, name + "_orig") is parameter
        assert torch.equal(parameter, before)


def test_random_pruning_new_weight(prune: ModuleType) -> None:
    for module, name in layers():
        prune.random_unstructured(module, name, amount=0.3)
        orig, mask = getattr(module, name + "_orig"), getattr(module, name + "_mask")
        assert torch.equal(getattr(module, name), orig * mask.to(orig.dtype))
        assert int((mask == 0).sum()) == round(0.3 * mask.numel())


def same_before_and_after(module: nn.Module, apply: Any) -> None:
    """A mask of ones changes neither outputs nor gradients, however often it runs."""
    out = module(X)
    out.square().sum().backward()
    gradients = [p.grad.clone() for p in module.parameters()]  # type: ignore[union-attr]
    module.zero_grad()
    apply()
    assert torch.equal(module(X), out)
    module(X).square().sum().backward()
    by_name = dict(module.named_parameters())
    assert torch.equal(by_name["weight_orig"].grad, gradients[0])  # type: ignore[arg-type]
    assert torch.equal(by_name["bias"].grad, gradients[1])  # type: ignore[arg-type]
    assert torch.equal(module(X), module(X))


def test_identity_pruning(prune: ModuleType) -> None:
    module = nn.Linear(6, 4)
    same_before_and_after(module, lambda: prune.identity(module, "weight"))


def test_random_pruning_0perc(prune: ModuleType) -> None:
    module = nn.Linear(6, 4)
    same_before_and_after(module, lambda: with_mask(prune, module, torch.ones(4, 6)))
    other = nn.Linear(6, 4)
    same_before_and_after(other, lambda: prune.random_unstructured(other, "weight", amount=0))


def test_random_pruning(prune: ModuleType) -> None:
    mask = torch.ones(4, 6)
    mask[0, 5] = mask[3, 2] = 0
    module = with_mask(prune, nn.Linear(6, 4), mask)
    module(torch.ones(1, 6)).sum().backward()
    assert torch.equal(module.weight_orig.grad, mask)
    assert torch.equal(module.bias.grad, torch.ones(4))
    before = module.weight_orig.detach().clone()
    torch.optim.SGD(module.parameters(), lr=0.5).step()
    assert torch.equal(module.weight_orig == before, mask == 0)


def test_random_pruning_forward(prune: ModuleType) -> None:
    mask = torch.zeros(4, 6)
    mask[1, 2] = mask[3, 0] = 1
    module = with_mask(prune, nn.Linear(6, 4), mask)
    out = module(X[:1])[0]
    weight, bias = module.weight_orig, module.bias
    assert torch.equal(out[[0, 2]], bias[[0, 2]])
    torch.testing.assert_close(out[1], weight[1, 2] * X[0, 2] + bias[1])
    torch.testing.assert_close(out[3], weight[3, 0] * X[0, 0] + bias[3])


def test_remove_pruning_forward(prune: ModuleType) -> None:
    module = with_mask(prune, nn.Linear(6, 4), torch.ones(4, 6).tril())
    out = module(X)
    prune.remove(module, "weight")
    assert torch.equal(module(X), out)


def test_pruning_id_consistency(prune: ModuleType) -> None:
    module = nn.Linear(6, 4, bias=False)
    (before,) = module.parameters()
    prune.random_unstructured(module, "weight", amount=0.4)
    (pruned,) = module.parameters()
    prune.remove(module, "weight")
    (after,) = module.parameters()
    assert before is pruned
    assert before is after


def test_random_pruning_pickle(prune: ModuleType) -> None:
    for module, name in layers():
        prune.random_unstructured(module, name, amount=0.3)
        twin = pickle.loads(pickle.dumps(module))
        assert type(twin) is type(module)
        assert prune.is_pruned(twin)
        assert torch.equal(getattr(twin, name + "_mask"), getattr(module, name + "_mask"))


def test_multiple_pruning_calls(prune: ModuleType) -> None:
    module = nn.Conv3d(3, 4, 2)
    prune.l1_unstructured(module, "weight", amount=0.2)
    first = module.weight_mask.clone()
    prune.ln_structured(module, "weight", amount=0.5, n=1, dim=0)
    hook = hook_of(module)
    assert isinstance(hook, upstream.PruningContainer)
    assert hook._tensor_name == "weight"
    assert [type(m).__name__ for m in hook] == ["L1Unstructured", "LnStructured"]
    assert isinstance(hook[0], upstream.L1Unstructured)
    assert isinstance(hook[1], upstream.LnStructured)
    assert not module.weight_mask[first == 0].any()
    prune.ln_structured(module, "weight", amount=0.3, n=float("inf"), dim=1)
    assert len(hook_of(module)) == 3
    assert hook_of(module)._tensor_name == "weight"


def method_for(prune: ModuleType, tensor: str, kind: str, *arguments: Any) -> Any:
    method = getattr(prune, kind)(*arguments)
    method._tensor_name = tensor
    return method


def container_for(prune: ModuleType, tensor: str) -> Any:
    container = prune.PruningContainer()
    container._tensor_name = tensor
    return container


def test_pruning_container(prune: ModuleType) -> None:
    container = container_for(prune, "kernel")
    assert len(container) == 0
    container.add_pruning_method(method_for(prune, "kernel", "L1Unstructured", 1))
    with pytest.raises(ValueError, match="kernel"):
        container.add_pruning_method(method_for(prune, "other", "L1Unstructured", 1))
    for wrong in (3.5, "method", object()):
        with pytest.raises(TypeError):
            container.add_pruning_method(wrong)
    assert len(container) == 1


def test_pruning_container_compute_mask(prune: ModuleType) -> None:
    container = container_for(prune, "kernel")
    t = torch.tensor([[9.0, 2, 7], [1, 8, 3], [6, 5, 4]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 1]])  # of integers
    for kind, arguments, expected in (
        ("L1Unstructured", (2,), [[1, 0, 0], [0, 1, 0], [1, 1, 1]]),
        ("LnStructured", (1, 2, 0), [[1, 1, 0], [0, 0, 0], [1, 1, 1]]),
        ("LnStructured", (1, 2, 1), [[1, 1, 0], [0, 1, 0], [1, 1, 0]]),
    ):
        container.add_pruning_method(method_for(prune, "kernel", kind, *arguments))
        made = container.compute_mask(t, mask.clone())
        assert made.dtype == t.dtype
        assert made.tolist() == expected


def test_l1_unstructured_pruning(prune: ModuleType) -> None:
    module = holding([[5.0, -1, 3], [-6, 2, -4]])
    prune.l1_unstructured(module, "weight", amount=2)
    assert module.weight.tolist() == [[5, 0, 3], [-6, 0, -4]]
    prune.l1_unstructured(module, "weight", amount=1)
    assert module.weight.tolist() == [[5, 0, 0], [-6, 0, -4]]
    prune.l1_unstructured(module, "weight", amount=0.67)
    assert module.weight.tolist() == [[0, 0, 0], [-6, 0, 0]]


def test_l1_unstructured_pruning_with_importance_scores(prune: ModuleType) -> None:
    module = holding([[5.0, -1, 3], [-6, 2, -4]])
    scores = torch.tensor([[0.1, 9, 9], [0.2, 9, 0.3]])
    prune.l1_unstructured(module, "weight", amount=2, importance_scores=scores)
    assert module.weight.tolist() == [[0, -1, 3], [0, 2, -4]]
    prune.l1_unstructured(module, "weight", amount=1, importance_scores=scores)
    assert module.weight.tolist() == [[0, -1, 3], [0, 2, 0]]


def test_unstructured_pruning_same_magnitude(prune: ModuleType) -> None:
    for amount in (0.2, 0.5, 7):
        module = nn.Linear(10, 5)
        with torch.no_grad():
            module.weight.copy_(torch.randint(1, 3, (5, 10)))
        prune.l1_unstructured(module, "weight", amount=amount)
        expected = prune._compute_nparams_toprune(amount, 50)
        assert int((module.weight_mask == 0).sum()) == expected


def test_random_structured_pruning_amount(prune: ModuleType) -> None:
    for amount, dim in ((0.5, 0), (3, 0), (0.5, 1), (1, 1)):
        module = nn.Linear(6, 4)
        prune.random_structured(module, "weight", amount=amount, dim=dim)
        kept = (module.weight_mask != 0).any(dim=1 - dim)
        whole = (module.weight_mask != 0).all(dim=1 - dim)
        assert torch.equal(kept, whole)
        gone = prune._compute_nparams_toprune(amount, len(kept))
        assert int((~kept).sum()) == gone


def test_ln_structured_pruning(prune: ModuleType) -> None:
    module = nn.Conv2d(2, 3, 2)
    with torch.no_grad():
        module.weight.fill_(1)
        module.weight[1] *= 0.1
        module.weight[:, 0] *= 2
    prune.ln_structured(module, "weight", amount=1, n=2, dim=0)
    expected = torch.ones(3, 2, 2, 2)
    expected[1] = 0
    assert torch.equal(module.weight_mask, expected)
    prune.ln_structured(module, "weight", amount=0.5, n=1, dim=1)
    expected[:, 1] = 0
    assert torch.equal(module.weight_mask, expected)


def test_ln_structured_pruning_importance_scores(prune: ModuleType) -> None:
    module = nn.Conv2d(2, 3, 2)
    scores = torch.ones(3, 2, 2, 2)
    scores[2] = 0.1
    scores[:, 1] *= 0.5
    prune.ln_structured(module, "weight", amount=1, n=2, dim=0, importance_scores=scores)
    expected = torch.ones(3, 2, 2, 2)
    expected[2] = 0
    assert torch.equal(module.weight_mask, expected)
    prune.ln_structured(module, "weight", amount=1, n=1, dim=1, importance_scores=scores)
    expected[:, 1] = 0
    assert torch.equal(module.weight_mask, expected)


def test_remove_pruning(prune: ModuleType) -> None:
    for module, name in layers():
        assert name in dict(module.named_parameters())
        prune.random_unstructured(module, name, amount=0.4)
        pruned = getattr(module, name).detach().clone()
        assert f"{name}_orig" in dict(module.named_parameters())
        assert f"{name}_mask" in dict(module.named_buffers())
        assert not isinstance(getattr(module, name), nn.Parameter)
        prune.remove(module, name)
        assert name in dict(module.named_parameters())
        assert not any(n.endswith("_orig") for n, _ in module.named_parameters())
        assert dict(module.named_buffers()) == {}
        assert isinstance(getattr(module, name), nn.Parameter)
        assert torch.equal(getattr(module, name), pruned)
        assert not module._forward_pre_hooks


def test_remove_pruning_exception(prune: ModuleType) -> None:
    for module, name in layers():
        assert not prune.is_pruned(module)
        with pytest.raises(ValueError, match=name):
            prune.remove(module, name)


def test_global_pruning(prune: ModuleType) -> None:
    a, b = holding([[1.0, -8], [3, -7]]), holding([[-2.0, 6]])
    pairs = ((a, "weight"), (b, "weight"))
    prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=3)
    assert a.weight.tolist() == [[0, -8], [0, -7]]
    assert b.weight.tolist() == [[0, 6]]
    prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=0.34)
    assert a.weight.tolist() == [[0, -8], [0, -7]]
    assert b.weight.tolist() == [[0, 0]]


def test_global_pruning_importance_scores(prune: ModuleType) -> None:
    a, b = holding([[1.0, -8], [3, -7]]), holding([[-2.0, 6]])
    pairs = [(a, "weight"), (b, "weight")]
    scores = {pairs[0]: torch.tensor([[5.0, 4], [0.1, 0.2]])}  # the other by its weight
    prune.global_unstructured(pairs, prune.L1Unstructured, scores, amount=3)
    assert a.weight.tolist() == [[1, -8], [0, 0]]
    assert b.weight.tolist() == [[0, 6]]
    scores[pairs[1]] = torch.tensor([[9.0, 0.3]])
    prune.global_unstructured(pairs, prune.L1Unstructured, scores, amount=1)
    assert a.weight.tolist() == [[1, -8], [0, 0]]
    assert b.weight.tolist() == [[0, 0]]


def test_custom_from_mask_pruning(prune: ModuleType) -> None:
    old, given = torch.ones(3, 4).tril(), torch.ones(3, 4).triu()
    method = prune.CustomFromMask(given)
    made = method.compute_mask(torch.randn(3, 4), default_mask=old)
    assert torch.equal(made, old * given)
    assert made.dtype == old.dtype


def test_pruning_rollback(prune: ModuleType) -> None:
    for module, name in layers():
        parameter = getattr(module, name)
        with (
            mock.patch.object(
                prune.L1Unstructured, "compute_mask", side_effect=ArithmeticError("no mask")
            ),
            pytest.raises(ArithmeticError, match="no mask"),
        ):
            prune.l1_unstructured(module, name, amount=0.5)
        assert getattr(module, name) is parameter
        assert name in dict(module.named_parameters())
        assert f"{name}_orig" not in dict(module.named_parameters())
        assert f"{name}_mask" not in dict(module.named_buffers())


def a_model(prune: ModuleType) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    prune.ln_structured(model[2], "weight", amount=1, n=2, dim=1)
    return model


def saved(thing: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return file


KEYS = ["0.bias", "0.weight_orig", "0.weight_mask", "2.bias", "2.weight_orig", "2.weight_mask"]


def test_pruning_serialization_model(prune: ModuleType) -> None:
    model = a_model(prune)
    assert list(model.state_dict()) == KEYS
    loaded = torch.load(saved(model), weights_only=False)
    assert list(loaded.state_dict()) == KEYS
    assert torch.equal(loaded[0].weight, model[0].weight)
    assert torch.equal(loaded(X), model(X))


def test_pruning_serialization_state_dict(prune: ModuleType) -> None:
    model, pruned, dense = a_model(prune), a_model(prune), a_model(prune)
    pruned.load_state_dict(torch.load(saved(model.state_dict())))
    assert torch.equal(pruned(X), model(X))
    out = model(X)
    for m in (model, dense):
        for layer in (m[0], m[2]):
            prune.remove(layer, "weight")
    assert list(model.state_dict()) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    dense.load_state_dict(torch.load(saved(model.state_dict())))
    assert torch.equal(dense(X), out)


T = torch.tensor([[3.0, -9, 5], [-7, 1, 8]])
OLD = torch.tensor([[1, 1, 0], [1, 0, 1]])  # of integers


def test_prune(prune: ModuleType) -> None:
    assert prune.L1Unstructured(5).prune(T).tolist() == [[0, -9, 0], [0, 0, 0]]
    # By hand all of T is ranked; what was pruned before stays so.
    assert prune.L1Unstructured(2).prune(T, OLD).tolist() == [[0, -9, 0], [-7, 0, 8]]


def test_prune_importance_scores(prune: ModuleType) -> None:
    scores = torch.tensor([[0.1, 5, 5], [5, 5, 0.2]])
    made = prune.L1Unstructured(2).prune(T, OLD, importance_scores=scores)
    assert torch.equal(made, T * torch.tensor([[0, 1, 0], [1, 0, 0]]))


def test_prune_importance_scores_mimic_default(prune: ModuleType) -> None:
    method = prune.L1Unstructured(3)
    assert torch.equal(method.prune(T, OLD), method.prune(T, OLD, importance_scores=T))


def test_rnn_pruning(prune: ModuleType) -> None:
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        module = kind(5, 4)
        names = list(module._flat_weights_names)
        prune.l1_unstructured(module, "weight_hh_l0", amount=0.5)
        at = names.index("weight_hh_l0")
        kinds = [isinstance(t, nn.Parameter) for t in module._flat_weights]
        assert kinds == [i != at for i in range(4)]
        assert module._flat_weights[at] is module.weight_hh_l0
        module(torch.randn(2, 3, 5))
        assert module._flat_weights[at] is module.weight_hh_l0
        prune.random_unstructured(module, "weight_hh_l0", amount=2)
        assert module._flat_weights[at] is module.weight_hh_l0
        prune.remove(module, "weight_hh_l0")
        assert all(isinstance(t, nn.Parameter) for t in module._flat_weights)
        assert module._flat_weights[at] is module.weight_hh_l0
        assert sorted(dict(module.named_parameters())) == sorted(names)
        assert sorted(k for k, p in module._parameters.items() if p is not None) == sorted(names)
