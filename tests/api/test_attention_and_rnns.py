"""Modules that read the weights of others, and RNNs with their lists: the life of a pruned one."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

import fastprune as prune
from support.unchanged import assert_unchanged, snapshot

X = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))

MODELS: dict[str, Callable[[], nn.Module]] = {
    "MultiheadAttention": lambda: nn.MultiheadAttention(8, 2, batch_first=True),
    "MultiheadAttention, kdim": lambda: nn.MultiheadAttention(8, 2, kdim=6, batch_first=True),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True),
    "TransformerEncoder": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 2
    ),
    "TransformerDecoderLayer": lambda: nn.TransformerDecoderLayer(8, 2, 16, 0.0, batch_first=True),
    "LSTM": lambda: nn.LSTM(8, 5, 2, batch_first=True),
    "GRU": lambda: nn.GRU(8, 5, bidirectional=True),
    "RNN": lambda: nn.RNN(8, 5),
    "LSTM with projections": lambda: nn.LSTM(8, 5, proj_size=3),
}
every_model = pytest.mark.parametrize("name", MODELS)


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]()


def run(model: nn.Module, x: Tensor = X) -> Tensor:
    kind = getattr(model, "_orig_mod", model)
    if isinstance(kind, nn.MultiheadAttention):
        result = model(x, x[..., : kind.kdim], x)[0]
    elif isinstance(kind, nn.TransformerDecoderLayer):
        result = model(x, x)
    else:
        result = model(x)
    return result[0] if isinstance(result, tuple) else result


def weights(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Every matrix of the model: module, name in it, name in the model."""
    for path, module in list(model.named_modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dim() > 1:
                yield module, name, f"{path}.{name}" if path else name


def pruned(name: str) -> nn.Module:
    model = make(name)
    for module, weight, _ in list(weights(model)):
        prune.l1_unstructured(module, weight, 0.5)
    return model


def masks(model: nn.Module) -> dict[str, Tensor]:
    return {n[: -len("_mask")]: b.clone() for n, b in model.named_buffers() if n.endswith("_mask")}


def unprune(model: nn.Module) -> None:
    for module in model.modules():
        for name in [n for n, _ in module.named_buffers(recurse=False) if n.endswith("_mask")]:
            prune.remove(module, name[: -len("_mask")])


def steps(model: nn.Module, count: int, x: Tensor = X) -> list[Tensor]:
    """Outputs of some training steps."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.5)
    outputs = []
    for _ in range(count):
        optimizer.zero_grad()
        out = run(model, x)
        out.square().sum().backward()
        optimizer.step()
        outputs.append(out.detach())
    return outputs


def steps_by_hand(name: str, count: int) -> list[Tensor]:
    """The same on a model that knows nothing of pruning: the products are made anew by hand."""
    masked = masks(pruned(name))
    model = make(name)
    originals = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD(originals.values(), 0.1, momentum=0.5)
    outputs = []

    class Call(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> Tensor:
            return run(self.model)

    for _ in range(count):
        optimizer.zero_grad()
        tensors = {n: p * masked[n] if n in masked else p for n, p in originals.items()}
        out = functional_call(Call(), {f"model.{n}": t for n, t in tensors.items()}, ())
        out.square().sum().backward()
        optimizer.step()
        outputs.append(out.detach())
    return outputs


def flat_weights_in_order(model: nn.Module) -> bool:
    return not isinstance(model, nn.RNNBase) or all(
        flat is getattr(model, name)
        for flat, name in zip(model._flat_weights, model._flat_weights_names, strict=True)
    )


@every_model
def test_training(name: str) -> None:
    for ours, expected in zip(steps(pruned(name), 3), steps_by_hand(name, 3), strict=True):
        torch.testing.assert_close(ours, expected)


@every_model
def test_training_removing_and_training_on(name: str) -> None:
    model = pruned(name)
    steps(model, 2)
    kept = masks(model)
    model.eval()
    with torch.no_grad():
        before = run(model)
    unprune(model)
    assert not prune.is_pruned(model)
    assert set(model.state_dict()) == set(make(name).state_dict())
    assert [type(m) for m in model.modules()] == [type(m) for m in make(name).modules()]
    assert flat_weights_in_order(model)
    with torch.no_grad():  # the fast path of an encoder layer, which hooks rule out
        torch.testing.assert_close(run(model), before)
    model.train()
    dense = make(name)
    dense.load_state_dict(model.state_dict())
    for weight, mask in kept.items():
        assert (dense.get_parameter(weight)[mask == 0] == 0).all()
    for ours, expected in zip(steps(model, 2), steps(dense, 2), strict=True):
        torch.testing.assert_close(ours, expected)
    assert flat_weights_in_order(model)


@every_model
def test_evaluation_sees_the_last_step(name: str) -> None:
    model = pruned(name)
    steps(model, 2)
    model.eval()
    dense = copy.deepcopy(model)
    unprune(dense)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(run(model), run(dense))


@pytest.mark.parametrize("first", [False, True])
def test_padding_takes_the_path_of_nested_tensors(first: bool) -> None:
    padding = torch.tensor([[0, 0, 1], [0, 1, 1]]).bool()
    model = make("TransformerEncoder").eval()
    layer = model.layers[0 if first else 1]  # type: ignore[index, union-attr]
    for module, name in [(layer.self_attn.out_proj, "weight"), (layer.linear1, "weight")]:
        prune.l1_unstructured(module, name, 0.5)
    dense = copy.deepcopy(model)
    unprune(dense)
    with torch.no_grad():
        ours = model(X, src_key_padding_mask=padding)
        expected = dense(X, src_key_padding_mask=padding)
    torch.testing.assert_close(ours[~padding], expected[~padding])


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "pickle, protocol 0": lambda model: pickle.loads(pickle.dumps(model, 0)),
    "copy of a copy": lambda model: copy.deepcopy(copy.deepcopy(model)),
}


def saved_and_loaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


COPIES["torch.save"] = saved_and_loaded


@every_model
@pytest.mark.parametrize("how", COPIES)
def test_copies(name: str, how: str) -> None:
    model = pruned(name)
    steps(model, 1)
    run(model)  # a product that carries a graph
    twin = COPIES[how](model)
    assert list(twin.state_dict()) == list(model.state_dict())
    assert repr(twin) == repr(model) == repr(make(name))
    before = run(model).detach()
    torch.testing.assert_close(run(twin), before, rtol=0, atol=0)
    steps(twin, 2)
    assert flat_weights_in_order(twin)
    torch.testing.assert_close(run(model), before, rtol=0, atol=0)
    unprune(twin)
    assert prune.is_pruned(model)
    assert not prune.is_pruned(twin)


@every_model
def test_another_dtype(name: str) -> None:
    model = pruned(name)
    steps(model, 1)
    expected = run(copy.deepcopy(model).double(), X.double())
    model.double()
    ours = steps(model, 2, X.double())
    torch.testing.assert_close(ours[0], expected.detach())
    assert ours[0].dtype == torch.float64
    assert flat_weights_in_order(model)
    model.half()
    assert run(model, X.half()).dtype == torch.float16


@every_model
def test_loading(name: str) -> None:
    model = pruned(name)
    steps(model, 2)
    fresh = make(name)
    for module, weight, _ in list(weights(fresh)):
        prune.identity(module, weight)
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(run(fresh), run(model), rtol=0, atol=0)
    assert flat_weights_in_order(fresh)


@every_model
def test_keys_and_masks_are_those_of_upstream(name: str) -> None:
    ours, theirs = pruned(name), make(name)
    for module, weight, _ in list(weights(theirs)):
        upstream.l1_unstructured(module, weight, 0.5)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(backend: str) -> None:
    model = pruned("MultiheadAttention")
    expected = run(model)
    expected.square().sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters()}
    model.zero_grad()
    out = run(torch.compile(model, backend=backend, fullgraph=True))  # type: ignore[arg-type]
    out.square().sum().backward()
    torch.testing.assert_close(out, expected)
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, grads[n])
    for p in model.parameters():
        p.data.mul_(2)
    assert not torch.allclose(run(model), expected)


# ---- out_proj, whose weight is computed where it is read ----


@pytest.fixture
def projection() -> nn.Linear:
    attention = nn.MultiheadAttention(4, 2)
    prune.l1_unstructured(attention.out_proj, "weight", 0.5)
    return attention.out_proj


def test_reading_follows_every_edit(projection: nn.Linear) -> None:
    orig, mask = projection.weight_orig, projection.weight_mask
    assert torch.equal(projection.weight, orig * mask)  # type: ignore[operator]
    orig.data.add_(1)  # type: ignore[union-attr]
    assert torch.equal(projection.weight, orig * mask)  # type: ignore[operator]
    mask.zero_()  # type: ignore[operator]
    assert not projection.weight.any()
    projection(torch.ones(1, 4))  # the hook, which must leave nothing behind
    mask.fill_(1)  # type: ignore[operator]
    assert torch.equal(projection.weight, orig)  # type: ignore[arg-type]


def test_a_weight_that_was_set_is_kept_until_pruned_again(projection: nn.Linear) -> None:
    nn.Module.__setattr__(projection, "weight", torch.zeros(4, 4))
    assert not projection.weight.any()
    prune.l1_unstructured(projection, "weight", 1)
    assert projection.weight.any()


def test_weight_and_bias_of_the_projection() -> None:
    projection = nn.MultiheadAttention(4, 2).out_proj
    plain = type(projection)
    prune.l1_unstructured(projection, "weight", 0.5)
    prune.l1_unstructured(projection, "bias", 0.5)
    assert type(projection) is not plain
    assert isinstance(projection, plain)
    prune.remove(projection, "weight")
    bias = projection.bias_orig * projection.bias_mask  # type: ignore[operator]
    assert torch.equal(projection.bias, bias)
    upstream.remove(projection, "bias")
    assert type(projection) is plain
    assert isinstance(projection.bias, nn.Parameter)
    assert list(projection.state_dict()) == ["weight", "bias"]


def test_what_is_missing_is_missed(projection: nn.Linear) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = projection.nothing
    with pytest.raises(AttributeError):
        del projection.nothing


def test_failures_leave_the_projection_alone() -> None:
    projection = nn.MultiheadAttention(4, 2).out_proj
    prune.identity(projection, "bias")
    for name in ("weight", "bias"):
        before = snapshot(projection)
        kind = type(projection)
        with pytest.raises(ValueError, match="should be smaller"):
            prune.l1_unstructured(projection, name, 1000)
        assert_unchanged(projection, before)
        assert type(projection) is kind
    other = nn.MultiheadAttention(4, 2).out_proj
    kind = type(other)
    wrong = [(other, "weight"), (nn.Linear(2, 2), "nothing")]
    with pytest.raises(AttributeError):
        prune.global_unstructured(wrong, prune.L1Unstructured, amount=1)
    assert type(other) is kind


def test_methods_with_a_product_of_their_own() -> None:
    class Doubled(prune.L1Unstructured):
        def apply_mask(self, module: nn.Module) -> Tensor:
            return 2 * super().apply_mask(module)

    projection = nn.MultiheadAttention(4, 2).out_proj
    Doubled.apply(projection, "weight", 0.5)
    expected = 2 * projection.weight_orig * projection.weight_mask  # type: ignore[operator]
    assert torch.equal(projection.weight, expected)


def test_pruned_again_by_upstream(projection: nn.Linear) -> None:
    upstream.l1_unstructured(projection, "weight", 2)
    assert int((projection.weight == 0).sum()) == 10
    projection.weight_orig.data.mul_(2)  # type: ignore[union-attr, operator]
    expected = projection.weight_orig * projection.weight_mask  # type: ignore[operator]
    assert torch.equal(projection.weight, expected)
    upstream.remove(projection, "weight")
    assert torch.equal(projection.weight, expected)


def test_beside_parametrizations_of_the_same_module() -> None:
    for first in ("parametrization", "pruning"):
        projection = nn.MultiheadAttention(4, 2).out_proj
        kind = type(projection)
        if first == "pruning":
            prune.l1_unstructured(projection, "weight", 8)
        parametrize.register_parametrization(projection, "bias", nn.Identity())
        if first == "parametrization":
            prune.l1_unstructured(projection, "weight", 8)
        twin = copy.deepcopy(projection)
        assert torch.equal(twin.weight, projection.weight)
        assert int((twin.weight == 0).sum()) == 8
        parametrize.remove_parametrizations(projection, "bias")
        assert int((projection.weight == 0).sum()) == 8
        prune.remove(projection, "weight")
        assert type(projection) is kind
