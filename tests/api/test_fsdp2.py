"""Parameters under FSDP2, pruned before and after ``fully_shard``."""

from __future__ import annotations

import copy
import gc
import io
import tempfile
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import fastprune as prune
from support.compare import assert_same_bits
from support.ranks import SIZES, check, failures, names_in
from support.sharding import (
    ORDERS_UNEVEN_PIECES,
    Training,
    X,
    assert_same_state,
    by_layer,
    mesh_of,
    model,
    model_pruned,
    model_tied,
    whole,
    whole_model,
)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", names_in(__file__))
def test_on_ranks(name: str, size: int) -> None:
    failed = failures(__file__, size)
    assert name not in failed, failed[name]


# ---- what the checks share ----

#: Of a layer with weights of 9 rows and 7 columns.
METHODS: dict[str, Callable[[Any], Any]] = {
    "l1": lambda m: prune.l1_unstructured(m, "weight", 0.3),
    "random": lambda m: prune.random_unstructured(m, "weight", 5),
    "ln": lambda m: prune.ln_structured(m, "weight", 1, 2, 0),
    "ln of columns": lambda m: prune.ln_structured(m, "weight", 0.2, 1, 1),
    "random channels": lambda m: prune.random_structured(m, "weight", 1, 1),
    "custom": lambda m: prune.custom_from_mask(m, "weight", torch.ones(9, 7).tril(2)),
    "identity": lambda m: prune.identity(m, "weight"),
}


def layers_of(layers: nn.Sequential) -> list[Any]:
    return [layers[0], layers[2]]


def whole_copy(layers: Any) -> Any:
    """An ordinary model with the weights and masks of now."""
    result = nn.Sequential()
    for other in layers_of(layers):
        parameters = other._parameters
        orig = parameters.get("weight_orig", parameters.get("weight"))
        layer = nn.Linear(orig.shape[1], orig.shape[0])
        result.extend([layer] if not len(result) else [nn.ReLU(), layer])
        layer.weight.data = whole(orig).clone()
        layer.bias.data = whole(other.bias).clone()
        if "weight_mask" in other._buffers:
            prune.custom_from_mask(layer, "weight", whole(other.weight_mask).clone())
    return result


def assert_same_masks(ours: Any, expected: Any) -> None:
    for layer, other in zip(layers_of(ours), layers_of(expected), strict=True):
        assert ("weight_mask" in layer._buffers) == ("weight_mask" in other._buffers)
        if "weight_mask" in layer._buffers:
            assert torch.equal(whole(layer.weight_mask), other.weight_mask)
            assert_same_bits(whole(layer.weight), whole(other.weight))


def assert_same_gradients(ours: Any, expected: Any) -> None:
    for layer, other in zip(layers_of(ours), layers_of(expected), strict=True):
        assert torch.allclose(whole(layer.weight_orig.grad), other.weight_orig.grad, atol=1e-5)


def prune_both(ours: Any, apply: Callable[[Any], Any]) -> None:
    """Prunes the model, and a whole copy of it with the first process's seed; compared."""
    expected = whole_copy(ours)
    torch.manual_seed(3)
    apply(expected)
    torch.manual_seed(3 + dist.get_rank())
    apply(ours)
    assert_same_masks(ours, expected)


def trained_alike(ours: Any, training: Training) -> None:
    """Steps from here are those of a whole copy that is pruned alike."""
    expected = whole_copy(ours)
    theirs = Training(expected)
    state = training.optimizer.state_dict()["state"]
    moments = {
        i: {name: whole(value).clone() for name, value in of_param.items()}
        for i, of_param in state.items()
    }
    order = [n for n, _ in training.model.named_parameters()]
    names = [n for n, _ in expected.named_parameters()]
    assert sorted(order) == sorted(names)
    if moments:
        held = {id(p): i for i, p in enumerate(training.optimizer.param_groups[0]["params"])}
        by_name = {n: moments[held[id(p)]] for n, p in training.model.named_parameters()}
        for name, param in expected.named_parameters():
            theirs.optimizer.state[param] = by_name[name]
    assert training.steps() == pytest.approx(theirs.steps(), rel=1e-4)
    state_of_ours = ours.state_dict()
    for name, value in expected.state_dict().items():
        assert torch.allclose(whole(state_of_ours[name]), value, atol=1e-5), name


def globally(amount: float) -> Callable[[Any], None]:
    def apply(layers: Any) -> None:
        pairs = [(layer, "weight") for layer in layers_of(layers)]
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=amount)

    return apply


def ways(size: int) -> Iterator[tuple[str, Callable[[Any], None]]]:
    yield "whole", whole_model
    yield "by layer", by_layer
    yield "kept whole", lambda m: by_layer(m, reshard_after_forward=False)
    if size % 2 == 0:
        yield "hybrid", lambda m: by_layer(m, mesh=mesh_of(2, size // 2))


# ---- checks ----


@check
def keywords_and_replacing_are_refused() -> None:
    from torch.distributed.fsdp import fully_shard

    layer = nn.Linear(7, 9)
    prune.identity(layer, "weight")
    fully_shard(layer)
    held, hooks = dict(layer.named_parameters()), dict(layer._forward_pre_hooks)
    for options in ({"sparsity": 0.5}, {"amount": 2, "factor": torch.ones(7)}):
        with pytest.raises(NotImplementedError, match=r"L1Unstructured without (sparsity|factor)="):
            prune.l1_unstructured(layer, "weight", **options)
    with pytest.raises(NotImplementedError, match="for replace=True"):
        prune.l1_unstructured(layer, "weight", 2, replace=True)
    assert dict(layer.named_parameters()) == held and dict(layer._forward_pre_hooks) == hooks
    prune.l1_unstructured(layer, "weight", 2)
    layer(torch.ones(2, 7)).sum().backward()


@check
def pruned_after_fully_shard() -> None:
    for _, shard in ways(dist.get_world_size()):
        for warm in ("new", "after a forward", "trained"):
            ours = model()
            shard(ours)
            training = Training(ours)  # made before anything is pruned
            if warm == "after a forward":
                with torch.no_grad():
                    ours(X)
            elif warm == "trained":
                training.steps()
            for amount in (0.3, 0.5):
                prune_both(ours, globally(amount))
                trained_alike(ours, training)


@check
def each_method_after_fully_shard() -> None:
    ours = model()
    by_layer(ours)
    training = Training(ours)
    for method in METHODS.values():
        for _ in range(2):
            prune_both(ours, lambda m, method=method: method(m[0]))
            trained_alike(ours, training)
        prune_both(ours, lambda m: prune.remove(m[0], "weight"))
        trained_alike(ours, training)
    for method in METHODS.values():  # one on another
        prune_both(ours, lambda m, method=method: method(m[0]))
        trained_alike(ours, training)


@check
def pruned_before_and_after() -> None:
    for _, shard in ways(dist.get_world_size()):
        ours = model_pruned()
        shard(ours)
        training = Training(ours)
        trained_alike(ours, training)
        for apply in (globally(0.3), lambda m: METHODS["ln"](m[0]), globally(0.5)):
            prune_both(ours, apply)
            trained_alike(ours, training)
        assert all(hasattr(layer.weight_mask, "placements") for layer in layers_of(ours))


@check
def locally() -> None:
    ours = model()
    by_layer(ours)
    training = Training(ours)
    for amounts in ([0.3, 0.5], [0.1, 3]):

        def apply(layers: Any, amounts: Any = amounts) -> None:
            pairs = [(layer, "weight") for layer in layers_of(layers)]
            prune.local_unstructured(pairs, prune.L1Unstructured, amounts)

        prune_both(ours, apply)
        trained_alike(ours, training)


@check
def nothing_is_kept_and_nothing_more_is_sent() -> None:
    """No product between forward and backward, the same collectives as without pruning."""
    from torch.distributed.tensor.debug import CommDebugMode

    sent = []
    for prunes in (lambda m: None, globally(0.5), None):
        ours = model_pruned() if prunes is None else model()
        by_layer(ours)
        Training(ours).steps()
        if prunes is not None:
            prunes(ours)
        weights: list[Tensor] = []

        def pack(t: Tensor, weights: list[Tensor] = weights) -> Tensor:
            if tuple(t.shape) in ((9, 7), (7, 9), (5, 9), (9, 5)):
                weights.append(t)
            return t

        with CommDebugMode() as counted:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                loss = ours(X).square().mean()
            assert weights and all(w.untyped_storage().nbytes() == 0 for w in weights)
            assert not any("weight" in layer.__dict__ for layer in layers_of(ours))
            loss.backward()
        sent.append(counted.get_comm_counts())
    assert sent[0] == sent[1] == sent[2]


@check
def gradients_and_outputs() -> None:
    """Bit for bit the product's output; gradients of pruned entries are zero."""
    for dtype in (torch.float32, torch.bfloat16):
        from torch.distributed.fsdp import MixedPrecisionPolicy

        ours = model()
        by_layer(ours, mp_policy=MixedPrecisionPolicy(param_dtype=dtype))
        globally(0.5)(ours)
        expected = whole_copy(ours).to(dtype)
        assert_same_bits(ours(X.to(dtype)).detach(), expected(X.to(dtype)).detach())
        for _ in range(2):  # and accumulated
            ours(X).float().square().mean().backward()
            for layer in layers_of(ours):
                grad = whole(layer.weight_orig.grad)
                pruned = whole(layer.weight_mask) == 0
                assert not grad[pruned].any() and grad[~pruned].any()
        ours[0].weight_orig.requires_grad_(False)
        prune.l1_unstructured(ours[0], "weight", 0.1)
        assert not ours[0].weight_orig.requires_grad


@check
def accumulated_without_synchronization() -> None:
    ours = model()
    by_layer(ours)
    globally(0.5)(ours)
    expected = whole_copy(ours)
    for last in (False, True):
        ours.set_requires_gradient_sync(last)
        ours(X).square().mean().backward()
        expected(X).square().mean().backward()
    assert_same_gradients(ours, expected)


@check
def checkpointed_activations() -> None:
    from torch.utils.checkpoint import checkpoint

    ours = model()
    by_layer(ours)
    globally(0.5)(ours)
    expected = whole_copy(ours)
    x = X.clone().requires_grad_()
    for layers in (ours, expected):
        h = checkpoint(layers[0], x, use_reentrant=False)
        layers[2](h.relu()).square().mean().backward()
    assert_same_gradients(ours, expected)


@check
def weight_is_what_is_read() -> None:
    """A DTensor outside of a forward, whole in it, of now in both."""
    ours = model()
    by_layer(ours)
    globally(0.5)(ours)
    seen = []
    ours[0].register_forward_pre_hook(lambda m, inputs: seen.append(m.weight.detach().clone()))
    ours(X)
    (inside,) = seen
    outside = ours[0].weight
    assert outside.placements == ours[0].weight_orig.placements
    assert_same_bits(whole(outside), inside)
    with torch.no_grad():
        ours[0].weight_orig.mul_(2)
    assert_same_bits(whole(ours[0].weight), inside * 2)
    ours.unshard()
    ours[0].unshard()
    assert_same_bits(ours[0].weight.detach(), inside * 2)
    assert "weight" not in dict(ours[0].named_parameters())
    assert type(ours[0]).__name__ == "FSDPLinear"


@check
def a_forward_that_fails_leaves_nothing() -> None:
    ours = model()
    by_layer(ours)
    globally(0.5)(ours)
    with pytest.raises(RuntimeError, match="shape"):
        ours[0](torch.ones(4, 5))
    assert "weight" not in ours[0].__dict__


@check
def sharded_along_columns() -> None:
    from torch.distributed.tensor import Shard

    size = dist.get_world_size()
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(2 * size, 9, bias=False))
    whole_model(ours, shard_placement_fn=lambda p: Shard(1))
    x = torch.randn(3, 2 * size)
    for amount in (0.3, 0.3):
        expected = nn.Linear(2 * size, 9, bias=False)
        expected.weight.data = whole(ours[0]._parameters.get("weight", ours[0].weight)).clone()
        if "weight_mask" in ours[0]._buffers:
            prune.custom_from_mask(expected, "weight", whole(ours[0].weight_mask))
        for layer in (ours[0], expected):
            prune.l1_unstructured(layer, "weight", amount)
            prune.ln_structured(layer, "weight", 1, 2, 0)
        assert torch.equal(whole(ours[0].weight_mask), expected.weight_mask)
        assert_same_bits(ours(x).detach(), expected(x).detach())
    ours(x).sum().backward()
    assert not whole(ours[0].weight_orig.grad)[whole(ours[0].weight_mask) == 0].any()


@check
def over_tensor_parallel_layers() -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    size = dist.get_world_size()
    if size % 2 or (size > 2 and not ORDERS_UNEVEN_PIECES):
        return
    mesh = mesh_of(size // 2, 2)
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5))
    parallelize_module(ours, mesh["b"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    for layer in layers_of(ours):
        fully_shard(layer, mesh=mesh["a"])
    fully_shard(ours, mesh=mesh["a"])
    training = Training(ours)
    training.steps()

    def given(m: Any) -> None:
        prune.custom_from_mask(m[0], "weight", torch.ones(6, 7).tril(2))

    for apply in (globally(0.3), lambda m: METHODS["l1"](m[0]), given):
        prune_both(ours, apply)
        trained_alike(ours, training)
    prune_both(ours, lambda m: prune.remove(m[0], "weight"))
    trained_alike(ours, training)


@check
def each_method_over_tensor_parallel_layers() -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    if dist.get_world_size() < 4 or not ORDERS_UNEVEN_PIECES:
        return
    mesh = mesh_of(2, 2)
    scores = torch.arange(80.0).view(10, 8).flip(0)
    for apply in (
        lambda m: prune.random_unstructured(m, "weight", 0.4),
        lambda m: prune.l1_unstructured(m, "weight", 0.4, importance_scores=scores),
        lambda m: prune.ln_structured(m, "weight", 0.3, 2, 0),
        lambda m: prune.random_structured(m, "weight", 0.3, 1),
        lambda m: prune.custom_from_mask(m, "weight", scores % 3 > 0),
    ):
        torch.manual_seed(0)
        ours, expected = nn.Sequential(nn.Linear(8, 10)), nn.Sequential(nn.Linear(8, 10))
        expected.load_state_dict(ours.state_dict())
        parallelize_module(ours, mesh["b"], {"0": ColwiseParallel()})
        fully_shard(ours, mesh=mesh["a"])
        for _ in range(2):
            torch.manual_seed(3)
            apply(expected[0])
            torch.manual_seed(3 + dist.get_rank())
            apply(ours[0])
            assert torch.equal(whole(ours[0].weight_mask), expected[0].weight_mask)


@check
def where_the_shard_cannot_be_masked() -> None:
    """Masks of other values than 0 and 1, and whatever does not ask the shard."""
    size = dist.get_world_size()
    ours = model()
    by_layer(ours)
    training = Training(ours)
    for value in (0.5, 1.0):
        given = torch.ones(9, 7).tril() * value

        def halved(m: Any, given: Tensor = given) -> None:
            prune.custom_from_mask(m[0], "weight", given)

        prune_both(ours, halved)
        trained_alike(ours, training)
    from torch.distributed.fsdp import CPUOffloadPolicy

    kinds: list[dict[str, Any]] = [{"offload_policy": CPUOffloadPolicy(pin_memory=False)}]
    if size == 4:
        kinds.append({"reshard_after_forward": 2})
    for options in kinds:
        ours = model()
        by_layer(ours, **options)
        training = Training(ours)
        for _ in range(2):
            prune_both(ours, globally(0.4))
            trained_alike(ours, training)


@check
def tied_weights() -> None:
    """Pruned in one of two modules, so that the shard that both have stays as it is."""
    ours, expected = model_tied(), model_tied()
    whole_model(ours)
    x = torch.ones(1, 6)
    for layers in (ours, expected):
        prune.l1_unstructured(layers[2], "weight", 0.5)
    assert torch.equal(whole(ours[2].weight_mask), expected[2].weight_mask)
    assert_same_bits(ours(x).detach(), expected(x).detach())
    for layers in (ours, expected):
        layers(x).sum().backward()
    grad = ours[2].weight_orig.grad
    assert torch.allclose(whole(grad), expected[2].weight_orig.grad, atol=1e-5)


@check
def state_dicts() -> None:
    ours = model()
    by_layer(ours)
    globally(0.5)(ours)
    assert_same_state(ours, whole_copy(ours))
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for assign in (False, True):
        other = model()
        by_layer(other)
        for layer in layers_of(other):
            prune.identity(layer, "weight")
        other.load_state_dict(copy.deepcopy(loaded), assign=assign)
        for name, value in other.state_dict().items():
            assert torch.equal(whole(value), whole(before[name]))
        assert_same_bits(other(X).detach(), ours(X).detach())
        other(X).square().mean().backward()
        for layer in layers_of(other):
            assert not whole(layer.weight_orig.grad)[whole(layer.weight_mask) == 0].any()
    with torch.no_grad():
        torch.save(ours[0].weight_orig, io.BytesIO())


@check
def saved_by_all_and_loaded_by_fewer() -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    size = dist.get_world_size()
    ours = model()
    by_layer(ours)
    globally(0.5)(ours)
    Training(ours).steps()
    expected = whole_copy(ours)
    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(folder)
    dcp.save(get_model_state_dict(ours), checkpoint_id=folder[0])
    for few in (1, size - 1):
        group = dist.new_group(list(range(few)))
        if dist.get_rank() < few:
            other = model()
            mesh = DeviceMesh.from_group(group, "cpu")
            for layer in layers_of(other):
                fully_shard(layer, mesh=mesh)
            fully_shard(other, mesh=mesh)
            for layer in layers_of(other):
                prune.identity(layer, "weight")
            state = get_model_state_dict(other)
            dcp.load(state, checkpoint_id=folder[0], process_group=group)
            set_model_state_dict(other, state)
            assert_same_masks(other, expected)
            assert_same_bits(other(X).detach(), expected(X).detach())
        dist.barrier()


@check
def one_process_fails() -> None:
    last = dist.get_rank() == dist.get_world_size() - 1
    from fastprune.sharded import PeerError

    ours = model()
    by_layer(ours)
    training = Training(ours)
    training.steps()
    pairs = [(layer, "weight") for layer in layers_of(ours)]
    for again in (False, True):
        before = ours.state_dict()
        parameters = dict(ours.named_parameters())
        with pytest.raises(ValueError if last else PeerError):
            prune.global_unstructured(pairs, prune.L1Unstructured, amount=1.5 if last else 0.5)
        with pytest.raises(ValueError if last else PeerError):
            prune.l1_unstructured(ours[0], "weight", 1.5 if last else 0.5)
        assert all(parameters[name] is p for name, p in ours.named_parameters())
        assert list(ours.state_dict()) == list(before)
        assert prune.is_pruned(ours) is again
        trained_alike(ours, training)
        prune_both(ours, globally(0.4))
        trained_alike(ours, training)


@check
def inside_a_forward_it_is_refused() -> None:
    ours = model()
    by_layer(ours)
    with pytest.raises(RuntimeError, match="idle"):
        handle = ours[0].register_forward_pre_hook(
            lambda m, inputs: prune.l1_unstructured(m, "weight", 0.5)
        )
        ours(X)
    handle.remove()
    assert not prune.is_pruned(ours)


@check
def a_method_that_needs_the_whole_tensor_is_refused() -> None:
    ours = model()
    by_layer(ours)
    with pytest.raises(NotImplementedError, match=r"one shard of weight.*custom_from_mask"):
        prune.Unstructured.apply(ours[0], "weight", 5, score=lambda t, mask: t)
    with pytest.raises(NotImplementedError, match=r"one shard of weight.*custom_from_mask"):
        prune.global_unstructured(
            [(ours[0], "weight")], prune.Unstructured, amount=5, score=lambda t, mask: t
        )
    assert not prune.is_pruned(ours)
    assert isinstance(ours[0]._parameters["weight"], nn.Parameter)


@check
def compiled() -> None:
    ours = model()
    by_layer(ours)
    training = Training(ours)
    training.model = torch.compile(ours, backend="aot_eager")
    for _ in range(2):
        prune_both(ours, globally(0.3))
        expected = Training(whole_copy(ours))
        expected.optimizer = torch.optim.SGD(expected.model.parameters(), lr=0.1)
        training.optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
        assert training.steps() == pytest.approx(expected.steps(), rel=1e-4)
        assert_same_state(ours, expected.model)


@check
def cached_is_an_ordinary_forward() -> None:
    for before in (True, False):
        ours = model_pruned() if before else model()
        by_layer(ours)
        if not before:
            globally(0.5)(ours)
        expected = whole_copy(ours)
        with torch.no_grad(), prune.cached(ours):
            for _ in range(2):
                assert_same_bits(ours(X), expected(X))
        assert_same_bits(ours(X).detach(), expected(X).detach())


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.rnn = nn.LSTM(8, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rnn(self.attention(x, x, x, need_weights=False)[0])[0]
        return out


@check
def attention_and_rnns() -> None:
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    ours = Attending()
    expected = copy.deepcopy(ours)
    fully_shard(ours, mesh=mesh_of())
    pairs = [
        ("attention", "in_proj_weight"),
        ("attention.out_proj", "weight"),
        ("rnn", "weight_hh_l0"),
    ]
    x = torch.randn(2, 5, 8)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (ours, expected)]
    for _ in range(2):
        for layers in (ours, expected):
            prune.global_unstructured(
                [(layers.get_submodule(m), name) for m, name in pairs],
                prune.L1Unstructured,
                amount=0.3,
            )
        for m, name in pairs:
            mask = getattr(expected.get_submodule(m), name + "_mask")
            assert torch.equal(whole(getattr(ours.get_submodule(m), name + "_mask")), mask)
        outs = [layers(x) for layers in (ours, expected)]
        assert torch.allclose(outs[0], outs[1], atol=1e-6)
        for out, optimizer in zip(outs, optimizers, strict=True):
            out.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        # The same from here, so that the next masks are.
        expected.load_state_dict({k: whole(v).clone() for k, v in ours.state_dict().items()})


class Softened(prune.CustomFromMask):
    """Multiplies masked entries by a half."""

    def apply_mask(self, module: nn.Module) -> Tensor:
        mask = getattr(module, self._tensor_name + "_mask")
        orig = getattr(module, self._tensor_name + "_orig")
        result: Tensor = mask * orig + 0.5 * (1 - mask) * orig
        return result


@check
def a_hook_with_an_apply_mask_of_its_own() -> None:
    given = torch.ones(9, 7).tril()
    for before in (True, False):
        ours, expected = model(), model()
        if before:
            Softened.apply(ours[0], "weight", given)
        by_layer(ours)
        if not before:
            Softened.apply(ours[0], "weight", given)
        Softened.apply(expected[0], "weight", given)
        for layers in (ours, expected):
            assert_same_bits(ours(X).detach(), expected(X).detach())
            layers(X).square().mean().backward()
        grad = ours[0].weight_orig.grad
        assert torch.allclose(whole(grad), expected[0].weight_orig.grad, atol=1e-6)


class Revived(prune.BasePruningMethod):
    """Prunes the upper entries, whatever was pruned before."""

    PRUNING_TYPE = "global"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return torch.ones_like(default_mask).triu()


@check
def a_new_mask_while_the_parameters_are_whole() -> None:
    for before in (True, False):
        ours, expected = model(), model()
        given = torch.ones(9, 7).tril()
        prune.custom_from_mask(expected[0], "weight", given)
        if before:
            prune.custom_from_mask(ours[0], "weight", given)
        whole_model(ours)
        if not before:
            prune.custom_from_mask(ours[0], "weight", given)
            for layer in layers_of(ours):
                assert hasattr(layer.bias, "placements")
        for _ in range(2):  # from then on the shard is masked
            ours.reshard()
            with torch.no_grad():
                ours(X)
        if before:
            Revived.apply(ours[0], "weight")
            Revived.apply(expected[0], "weight")
        else:  # the old mask is a shard, and its method needs the whole tensor
            for layers in (ours, expected):
                prune.custom_from_mask(layers[0], "weight", given.flip(0))
        assert_same_bits(ours(X).detach(), expected(X).detach())


@check
def told_once_by_exchanges_inside_of_others() -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    from fastprune.sharded import PeerError

    last = dist.get_rank() == dist.get_world_size() - 1
    layers = nn.Sequential(nn.Linear(6, 4))
    weight = distribute_tensor(torch.randn(4, 6), mesh_of(), [Shard(0)])
    layers[0].weight = nn.Parameter(weight)
    prune.l1_unstructured(layers[0], "weight", 2)
    with (
        torch.no_grad(),
        prune.cached(layers),
        pytest.raises(ValueError if last else PeerError),
    ):
        prune.l1_unstructured(layers[0], "weight", 100 if last else 2)
    prune.l1_unstructured(layers[0], "weight", 2)


@check
def one_process_gives_a_wrong_mask() -> None:
    from fastprune.sharded import PeerError

    last = dist.get_rank() == dist.get_world_size() - 1
    ours = model()
    by_layer(ours)
    for pruned in (False, True):
        mask = torch.ones(9, 7) if not last else torch.ones(7, 9)
        with pytest.raises(AssertionError if last else PeerError):
            prune.custom_from_mask(ours[0], "weight", mask)
        assert prune.is_pruned(ours) is pruned
        prune.identity(ours[0], "weight")
    ours(X).sum().backward()


@check
def upstreams_classes_without_patch_are_refused() -> None:
    import torch.nn.utils.prune as upstream

    ours = model()
    by_layer(ours)
    with pytest.raises(NotImplementedError, match="one shard of weight"):
        prune.local_unstructured([(ours[0], "weight")], upstream.L1Unstructured, 0.5)
    assert not prune.is_pruned(ours)


@check
def another_model_in_the_place_of_one_that_is_gone() -> None:
    import gc

    from torch.distributed.fsdp import fully_shard

    first, second = model(), model()
    by_layer(first)
    prune.l1_unstructured(first[0], "weight", 0.3)
    fully_shard(second[0], mesh=mesh_of())
    prune.l1_unstructured(second[2], "weight", 0.5)  # not under FSDP2
    second[2](torch.ones(1, 9))
    prune.remove(second[2], "weight")
    del first
    gc.collect()
    fully_shard(second[2], mesh=mesh_of())
    prune.l1_unstructured(second[2], "weight", 0.5)
    expected = whole_copy(second)
    assert_same_bits(second[2](torch.ones(1, 9)).detach(), expected[2](torch.ones(1, 9)).detach())


@check
def on_the_meta_device_until_it_is_loaded() -> None:
    expected = model_pruned()
    with torch.device("meta"):
        ours = model()
    by_layer(ours)
    for layer in layers_of(ours):
        prune.identity(layer, "weight")
    ours.to_empty(device="cpu")
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(ours, expected.state_dict(), options=options)
    assert_same_masks(ours, expected)
    for _ in range(2):
        assert_same_bits(ours(X).detach(), expected(X).detach())
    ours(X).square().mean().backward()
    for layer in layers_of(ours):
        assert not whole(layer.weight_orig.grad)[whole(layer.weight_mask) == 0].any()


@check
def converted_and_then_compiled() -> None:
    for compiles in (False, True):
        ours = model()
        by_layer(ours)
        prune.custom_from_mask(ours[0], "weight", torch.ones(9, 7).tril())
        ours.to(torch.float64)
        expected = whole_copy(ours).double()
        called = torch.compile(ours, backend="aot_eager") if compiles else ours
        x = X.double()
        for _ in range(2):
            assert torch.allclose(called(x), expected(x), atol=1e-12)
        called(x).sum().backward()
        assert not whole(ours[0].weight_orig.grad).triu(1).any()


@check
def an_optimizer_step_in_the_backward() -> None:
    ours = model()
    by_layer(ours)
    optimizers = {p: torch.optim.SGD([p], lr=0.1, weight_decay=0.0) for p in ours.parameters()}

    def step(param: Tensor) -> None:
        optimizers[param].step()  # type: ignore[index]
        optimizers[param].zero_grad()  # type: ignore[index]

    for param in ours.parameters():
        param.register_post_accumulate_grad_hook(step)
    globally(0.5)(ours)
    before = [whole(layer.weight_orig).clone() for layer in layers_of(ours)]
    for _ in range(2):
        ours(X).square().mean().backward()
    for layer, old in zip(layers_of(ours), before, strict=True):
        pruned = whole(layer.weight_mask) == 0
        assert torch.equal(whole(layer.weight_orig)[pruned], old[pruned])
        assert not torch.equal(whole(layer.weight_orig), old)


@check
def read_by_one_process() -> None:
    """Where the mask is multiplied in the hook; reading outside of a forward sends nothing."""
    ours = model()
    whole_model(ours)
    prune.custom_from_mask(ours[0], "weight", torch.ones(9, 7).tril() * 0.5)
    with torch.no_grad():
        ours(X)
    if dist.get_rank() == 0:
        assert ours[0].weight.to_local().shape[1] == 7
    dist.barrier()


@check
def nothing_keeps_a_model_alive() -> None:
    def of_a_model(trained: bool, before: bool) -> list[weakref.ref[nn.Module]]:
        ours = model_pruned() if before else model()
        by_layer(ours)
        globally(0.5)(ours)
        if trained:
            Training(ours).steps()
            globally(0.25)(ours)
        return [weakref.ref(module) for module in ours.modules()]

    for trained, before in ((False, False), (True, False), (True, True)):
        alive = of_a_model(trained, before)
        gc.collect()
        assert all(ref() is None for ref in alive), (trained, before)
