"""attach and dense_state_dict; files by torch.save and safetensors."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import safetensors.torch as safetensors
import torch
import torch.distributed as dist
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune
from support.unchanged import assert_unchanged, snapshot


class Block(nn.Module):
    """A module of every kind that keeps its weights in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm1d(4)
        self.rnn = nn.LSTM(4, 4, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3, bias=False))
        self.register_buffer("attention_mask", torch.zeros(5, 5))
        self.register_buffer("position_orig", torch.ones(5, 1))
        self.register_buffer("scratch", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x.transpose(1, 2))).transpose(1, 2) * self.position_orig
        x, _ = self.rnn(x)
        x, _ = self.attention(x, x, x, attn_mask=self.attention_mask)
        out: Tensor = self.head(x)
        return out


X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))


def pruned(library: Any = prune) -> Block:
    """Pruned in each way, trained for a step, so that no product is fresh."""
    model = Block()
    library.ln_structured(model.conv, "weight", 1, 2, 0)
    library.l1_unstructured(model.conv, "weight", 5)
    library.random_unstructured(model.rnn, "weight_hh_l0", 0.5)
    library.l1_unstructured(model.attention.out_proj, "weight", 0.5)
    library.l1_unstructured(model.attention, "in_proj_weight", 0.5)
    layers = [(model.head[0], "weight"), (model.head[0], "bias"), (model.head[2], "weight")]
    library.global_unstructured(layers, library.L1Unstructured, amount=0.5)
    model(X).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    return model.eval()


def expected_of(model: nn.Module) -> Tensor:
    """What the model computes with its parameters of now, ``out_proj`` included, without hooks."""
    twin: nn.Module = pickle.loads(pickle.dumps(model))  # upstream's deepcopy fails
    for module in twin.modules():
        for hook in list(module._forward_pre_hooks.values()):
            upstream.remove(module, hook._tensor_name)
    with torch.no_grad():
        out: Tensor = twin(X)
    return out


# ---- attach ----


@pytest.mark.parametrize("library", [prune, upstream], ids=["ours", "upstreams"])
def test_a_fresh_model_loads_a_pruned_checkpoint(library: Any) -> None:
    source = pruned(library)
    state = {key: value.clone() for key, value in source.state_dict().items()}
    model = Block().eval()
    assert prune.attach(model, state) is model
    assert torch.equal(model.head[0].weight_mask, torch.ones(6, 4))  # nothing is loaded
    model.load_state_dict(state)
    assert list(model.state_dict()) == list(state)  # an optimizer counts parameters
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    with torch.no_grad():
        assert torch.equal(model(X), expected_of(source))


def test_pruned_tensors_are_fresh_after_the_load() -> None:
    source = pruned()
    model = prune.attach(Block(), source.state_dict())
    model.load_state_dict(source.state_dict())
    for name in ("conv.weight", "attention.out_proj.weight", "attention.in_proj_weight"):
        path, _, tensor = name.rpartition(".")
        module = source.get_submodule(path)
        product = getattr(module, tensor + "_orig") * getattr(module, tensor + "_mask")
        assert torch.equal(getattr(model.get_submodule(path), tensor), product)
    assert model.rnn._flat_weights[1] is model.rnn.weight_hh_l0
    assert torch.equal(model.rnn.weight_hh_l0 == 0, source.rnn.weight_hh_l0_mask == 0)


def test_hooks_of_an_attached_model() -> None:
    source = pruned()
    model = prune.attach(Block(), source.state_dict())
    model.load_state_dict(source.state_dict())
    hooks = model.head[0]._forward_pre_hooks.values()
    (hook,) = (hook for hook in hooks if hook._tensor_name == "weight")
    assert type(hook) is prune.CustomFromMask
    assert torch.equal(hook.mask, source.head[0].weight_mask)
    prune.l1_unstructured(model.head[0], "weight", 1)
    assert model.head[0].weight_mask.sum() == source.head[0].weight_mask.sum() - 1
    twin = copy.deepcopy(model)
    twin.load_state_dict(model.state_dict())
    model(X).sum().backward()
    assert model.head[0].weight_orig.grad is not None
    prune.remove(model.head[0], "weight")
    model.load_state_dict(model.state_dict())
    assert isinstance(model.head[0].weight, nn.Parameter)


def test_removed_and_attached_again() -> None:
    """The hook that refreshes products goes with the last mask, and is there once."""
    state = prune.l1_unstructured(nn.Linear(4, 3), "weight", 5).state_dict()
    state = {"bias_orig": state.pop("bias"), "bias_mask": torch.eye(3)[0], **state}
    model = nn.Linear(4, 3)
    for _ in range(2):
        prune.attach(model, state)
        model.load_state_dict(state)
        prune.remove(model, "weight")
        assert len(model._load_state_dict_post_hooks) == 1
        prune.attach(
            model,
            {
                **model.state_dict(),
                "weight_orig": state["weight_orig"],
                "weight_mask": state["weight_mask"],
            },
        )
        assert len(model._load_state_dict_post_hooks) == 1
        prune.remove(model, "weight")
        prune.remove(model, "bias")
        assert not model._load_state_dict_post_hooks
    assert b"fastprune" not in pickle.dumps(model)
    prune.remove(prune.in_place(prune.attach(nn.Linear(4, 3), state)), "weight")


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float64, torch.float16], ids=str)
def test_masks_keep_their_dtype(dtype: torch.dtype) -> None:
    state = pruned().state_dict()
    state = {k: v.to(dtype) if k.endswith("weight_mask") else v for k, v in state.items()}
    model = prune.attach(Block().half(), state)
    model.load_state_dict(state)
    assert model.conv.weight_mask.dtype == dtype
    assert model.conv.weight.dtype == model.conv.weight_orig.dtype == torch.float16
    assert torch.equal(model.conv.weight_mask, state["conv.weight_mask"])
    half = state["conv.weight_orig"].half() * state["conv.weight_mask"].half()
    assert torch.equal(model.conv.weight, half)


def test_a_model_on_the_meta_device() -> None:
    source = pruned()
    with torch.device("meta"):
        model = Block().eval()
    prune.attach(model, source.state_dict())
    assert model.conv.weight_mask.is_meta
    model.load_state_dict(source.state_dict(), assign=True)
    model.scratch = torch.ones(1)
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    with torch.no_grad():
        assert torch.equal(model(X), expected_of(source))


def test_what_is_pruned_already_stays() -> None:
    source, model = pruned(), Block()
    prune.l1_unstructured(model.conv, "weight", 3)
    upstream.l1_unstructured(model.head[2], "weight", 3)
    before = [dict(m._forward_pre_hooks) for m in (model.conv, model.head[2])]
    prune.attach(model, source.state_dict())
    assert before == [dict(m._forward_pre_hooks) for m in (model.conv, model.head[2])]
    model.load_state_dict(source.state_dict())
    assert torch.equal(model.conv.weight_mask, source.conv.weight_mask)
    prune.attach(model, source.state_dict())
    assert len(model.rnn._forward_pre_hooks) == 1


def test_a_layer_under_two_names() -> None:
    def make() -> nn.Module:
        layer = nn.Linear(4, 4)
        return nn.Sequential(layer, nn.Tanh(), layer)

    source, model = make(), make()
    prune.l1_unstructured(source[0], "weight", 0.5)
    prune.attach(model, source.state_dict()).load_state_dict(source.state_dict())
    assert len(model[0]._forward_pre_hooks) == 1
    assert torch.equal(model(X), source(X))


def test_a_dense_checkpoint_attaches_nothing() -> None:
    model = Block()
    before = snapshot(model)
    prune.attach(model, Block().state_dict())
    assert_unchanged(model, before)


def without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.pop(key)


def prefixed(state: dict[str, Any]) -> None:
    items = list(state.items())
    state.clear()
    state.update({"module." + key: value for key, value in items})


MISFITS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no mask": (
        without("conv.weight_mask"),
        r'Missing key "conv.weight_mask": expected it beside "conv.weight_orig"',
    ),
    "no original": (
        without("head.0.bias_orig"),
        r'Missing key "head.0.bias_orig": expected it beside "head.0.bias_mask"',
    ),
    "another shape": (
        lambda s: s.update({"conv.weight_orig": torch.ones(4, 4, 5)}),
        r"size mismatch for conv.weight_orig: expected torch.Size\(\[4, 4, 3\]\), "
        r"got torch.Size\(\[4, 4, 5\]\)",
    ),
    "a mask of another shape": (
        lambda s: s.update({"conv.weight_mask": torch.ones(4, 1, 1)}),
        r"size mismatch for conv.weight_mask: expected .*, got torch.Size\(\[4, 1, 1\]\)",
    ),
    "an unknown module": (
        lambda s: s.update({"tail.weight_orig": torch.ones(3), "tail.weight_mask": torch.ones(3)}),
        r'Unexpected key "tail.weight_orig": the model has no module "tail"',
    ),
    "an unknown parameter": (
        lambda s: s.update({"conv.w_orig": torch.ones(3), "conv.w_mask": torch.ones(3)}),
        r'Unexpected key "conv.w_orig": expected "conv.w" to be a Parameter, got NoneType',
    ),
    "a bias that is None": (
        lambda s: s.update({"head.2.bias_orig": torch.ones(3), "head.2.bias_mask": torch.ones(3)}),
        r'Unexpected key "head.2.bias_orig": expected "head.2.bias" to be a Parameter',
    ),
    "no tensor": (
        lambda s: s.update({"conv.weight_mask": [1.0]}),
        r'"conv.weight_mask": expected a Tensor, got list',
    ),
    "a wrapper's prefix": (
        prefixed,
        r'no module "module.conv". Keys of the model look like "conv.weight"; remove the prefix',
    ),
}


@pytest.mark.parametrize("title", MISFITS)
def test_a_pair_that_does_not_fit(title: str) -> None:
    edit, message = MISFITS[title]
    model, state = Block(), dict(pruned().state_dict())
    edit(state)
    befores = [(module, snapshot(module)) for module in model.modules()]
    with pytest.raises(RuntimeError, match=message):
        prune.attach(model, state)
    for module, before in befores:
        assert_unchanged(module, before)


def test_all_misfits_are_listed() -> None:
    state = dict(pruned().state_dict())
    del state["conv.weight_mask"], state["head.0.bias_mask"]
    with pytest.raises(RuntimeError, match=r"(?s)attaching.*Block.*conv.weight_m.*head.0.bias_m"):
        prune.attach(Block(), state)


def test_a_pruned_model_that_does_not_fit() -> None:
    model = prune.l1_unstructured(nn.Linear(4, 3), "weight", 2)
    with pytest.raises(RuntimeError, match="size mismatch for weight_mask"):
        prune.attach(model, {"weight_orig": torch.ones(3, 4), "weight_mask": torch.ones(3, 5)})
    with pytest.raises(RuntimeError, match="Missing key"):
        prune.attach(model, {"weight_orig": torch.ones(3, 4)})


def test_a_state_dict_that_is_none() -> None:
    with pytest.raises(TypeError, match="expected state_dict to be dict-like, got list"):
        prune.attach(nn.Linear(4, 3), [1])  # type: ignore[arg-type]


@pytest.mark.parametrize("failing", [1, 4])
def test_attach_is_a_transaction(failing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, state = Block(), pruned().state_dict()
    befores = [(module, snapshot(module)) for module in model.modules()]
    register, calls = nn.Module.register_forward_pre_hook, [0]

    def fails(self: nn.Module, hook: Any) -> Any:
        calls[0] += 1
        if calls[0] == failing:
            raise KeyboardInterrupt
        return register(self, hook)

    monkeypatch.setattr(nn.Module, "register_forward_pre_hook", fails)
    with pytest.raises(KeyboardInterrupt):
        prune.attach(model, state)
    for module, before in befores:
        assert_unchanged(module, before)
        assert not module._load_state_dict_post_hooks


def test_a_single_key_of_no_parameter_is_left_to_load_state_dict() -> None:
    model = Block()
    state = {**model.state_dict(), "old.causal_mask": torch.ones(1), "causal_mask": torch.ones(1)}
    prune.attach(model, state)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        model.load_state_dict(state)


def test_old_spectral_norm_keeps_its_own_original() -> None:
    def make() -> nn.Module:
        return nn.utils.spectral_norm(nn.Linear(4, 3))

    source, model = make(), make()
    prune.attach(model, source.state_dict())
    assert not prune.is_pruned(model)
    prune.l1_unstructured(source, "weight_orig", 0.5)
    prune.attach(model, source.state_dict()).load_state_dict(source.state_dict())
    source.eval(), model.eval()
    assert torch.equal(model(X), source(X))


# ---- dense_state_dict ----


@pytest.mark.parametrize("library", [prune, upstream], ids=["ours", "upstreams"])
def test_a_dense_state_dict(library: Any) -> None:
    source = pruned(library)
    befores = [(module, snapshot(module)) for module in source.modules()]
    state = prune.dense_state_dict(source)
    for module, before in befores:
        assert_unchanged(module, before)
    assert sorted(state) == sorted(Block().state_dict())
    renamed = [key.removesuffix("_orig") for key in source.state_dict()]
    assert list(state) == [
        "position_orig" if key == "position" else key
        for key in renamed
        if not key.endswith("_mask") or key == "attention_mask"
    ]
    assert state._metadata == Block().state_dict()._metadata
    own = {t.untyped_storage().data_ptr() for t in (*source.parameters(), *source.buffers())}
    own |= {
        t.untyped_storage().data_ptr()
        for m in source.modules()
        for t in vars(m).values()
        if isinstance(t, Tensor)
    }
    for key, value in state.items():
        assert type(value) is Tensor and not value.requires_grad, key
        assert value.untyped_storage().data_ptr() not in own, key
    product = source.conv.weight_orig * source.conv.weight_mask
    assert torch.equal(state["conv.weight"], product)
    assert torch.equal(state["head.0.bias"] == 0, source.head[0].bias_mask == 0)
    model = Block().eval()
    model.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(model(X), expected_of(source))


def test_it_is_the_state_dict_after_remove() -> None:
    model = pruned()
    state = prune.dense_state_dict(model)
    for module in model.modules():
        for hook in list(module._forward_pre_hooks.values()):
            prune.remove(module, hook._tensor_name)
    removed = model.state_dict()
    assert sorted(removed) == sorted(state)
    for key, value in removed.items():
        assert torch.equal(value, state[key]), key
        assert value.dtype == state[key].dtype


def test_dense_of_an_unpruned_model() -> None:
    model = Block()
    state = prune.dense_state_dict(model)
    assert list(state) == list(model.state_dict())
    state["conv.weight"].zero_()
    assert model.conv.weight.any()


def test_dense_keeps_the_dtype_of_the_original() -> None:
    model = prune.l1_unstructured(nn.Linear(4, 3), "weight", 2).bfloat16()
    model.weight_mask = model.weight_mask.bool()
    state = prune.dense_state_dict(model)
    assert state["weight"].dtype == torch.bfloat16
    assert torch.equal(state["weight"], model.weight_orig * model.weight_mask)


def test_dense_without_a_persistent_mask() -> None:
    model = prune.l1_unstructured(nn.Linear(4, 3), "weight", 2)
    model.register_buffer("weight_mask", model.weight_mask, persistent=False)
    state = prune.dense_state_dict(model)
    assert sorted(state) == ["bias", "weight"]
    assert torch.equal(state["weight"], model.weight_orig * model.weight_mask)


def test_dense_of_a_method_with_its_own_product() -> None:
    class Tripled(prune.L1Unstructured):
        def apply_mask(self, module: nn.Module) -> Tensor:
            return module.weight_orig * 3

    class Bare(prune.L1Unstructured):
        def apply_mask(self, module: nn.Module) -> Tensor:
            return module.weight_orig

    for kind, factor in ((Tripled, 3), (Bare, 1)):
        model = nn.Linear(4, 3)
        kind.apply(model, "weight", 2)
        state = prune.dense_state_dict(model)
        assert torch.equal(state["weight"], model.weight_orig * factor)
        assert state["weight"].data_ptr() != model.weight_orig.data_ptr()


def test_hooks_of_the_state_dict_are_heard() -> None:
    model = prune.l1_unstructured(nn.Linear(4, 3), "weight", 2)

    def doubles(module: nn.Module, state: Any, prefix: str, metadata: Any) -> None:
        state[prefix + "weight_orig"] = 2 * state[prefix + "weight_orig"]
        state[prefix + "note"] = "kept"

    model._register_state_dict_hook(doubles)
    state = prune.dense_state_dict(nn.Sequential(model))
    assert torch.equal(state["0.weight"], 2 * model.weight_orig * model.weight_mask)
    assert state["0.note"] == "kept"


def test_dense_of_a_parametrized_original() -> None:
    model = prune.l1_unstructured(nn.Linear(4, 3), "weight", 2)
    nn.utils.parametrizations.weight_norm(model, "weight_orig")
    with pytest.raises(RuntimeError, match=r'expected "0.weight_orig" beside "0.weight_mask"'):
        prune.dense_state_dict(nn.Sequential(model))


class Tied(nn.Module):
    """An embedding whose weight is the decoder's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.decoder = nn.Linear(4, 6, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.embedding(x))
        return out


@pytest.mark.parametrize("which", ["neither", "both", "one"])
def test_dense_of_tied_weights(which: str) -> None:
    model = Tied()
    if which != "neither":
        prune.l1_unstructured(model.embedding, "weight", 0.5)
    if which == "both":
        prune.l1_unstructured(model.decoder, "weight", 0.5)
    state = prune.dense_state_dict(model)
    assert (state["embedding.weight"] is state["decoder.weight"]) == (which != "one")
    if which == "one":
        assert torch.equal(state["decoder.weight"], model.decoder.weight)
        return
    twin = Tied()
    twin.load_state_dict(state)
    indices = torch.arange(6)
    assert torch.equal(twin(indices), model(indices))


def test_dense_on_the_meta_device() -> None:
    model = prune.l1_unstructured(Tied().embedding, "weight", 0.5).to("meta")
    state = prune.dense_state_dict(model)
    assert list(state) == ["weight"]
    assert state["weight"].is_meta


def test_tensors_of_several_ranks() -> None:
    """DTensors stay DTensors; here of one rank."""
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = dist.device_mesh.init_device_mesh("cpu", (1,))

        def sharded(t: Tensor) -> DTensor:
            return distribute_tensor(t, mesh, [Shard(0)])

        source, model, dense = (nn.Linear(4, 3, bias=False) for _ in range(3))
        for layer in (source, model, dense):
            layer.weight = nn.Parameter(sharded(layer.weight.detach()))
        mask = torch.ones(3, 4).tril()
        prune.custom_from_mask(source, "weight", sharded(mask))
        prune.attach(model, source.state_dict()).load_state_dict(source.state_dict())
        dense.load_state_dict(prune.dense_state_dict(source))
        expected = source.weight_orig.full_tensor() * mask
        for weight in (model.weight, dense.weight):
            assert isinstance(weight, DTensor)
            assert torch.equal(weight.full_tensor(), expected)
        assert torch.equal(model.weight_mask.full_tensor(), mask)
    finally:
        dist.destroy_process_group()


# ---- safetensors ----


def test_safetensors_of_a_pruned_state_dict(tmp_path: Any) -> None:
    source = pruned()
    path = tmp_path / "model.safetensors"
    safetensors.save_file(source.state_dict(), path)
    state = safetensors.load_file(path)
    model = prune.attach(Block().eval(), state)
    model.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(model(X), expected_of(source))
    other = prune.attach(Block().eval(), state)
    assert safetensors.load_model(other, path) == (set(), [])
    with torch.no_grad():
        assert torch.equal(other(X), expected_of(source))


def test_safetensors_of_a_pruned_model(tmp_path: Any) -> None:
    source = pruned()
    path = tmp_path / "model.safetensors"
    safetensors.save_model(source, path)
    model = pruned()
    assert safetensors.load_model(model, path) == (set(), [])
    with torch.no_grad():
        assert torch.equal(expected_of(model), expected_of(source))


def test_safetensors_of_a_dense_state_dict(tmp_path: Any) -> None:
    source = pruned()
    path = tmp_path / "model.safetensors"
    safetensors.save_file(prune.dense_state_dict(source), path)
    model = Block().eval()
    assert safetensors.load_model(model, path) == (set(), [])
    with torch.no_grad():
        assert torch.equal(model(X), expected_of(source))


def test_safetensors_of_tied_weights(tmp_path: Any) -> None:
    source = Tied()
    prune.l1_unstructured(source.embedding, "weight", 0.5)
    prune.l1_unstructured(source.decoder, "weight", 0.5)
    path = tmp_path / "model.safetensors"
    safetensors.save_model(source, path)
    model = Tied()
    prune.attach(model, source.state_dict())
    assert safetensors.load_model(model, path) == (set(), [])
    assert model.embedding.weight_orig is model.decoder.weight_orig
    indices = torch.arange(6)
    assert torch.equal(model(indices), source(indices))
