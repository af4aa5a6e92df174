"""report: what it counts in every form, that it reads a device once, and what it shows."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastprune as prune
from fastprune import reporting
from fastprune.report_tables import plain_text
from support.ranks import check, failures, names_in
from support.sharding import mesh_of, model_pruned, whole
from support.unchanged import assert_unchanged, snapshot


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 8))


def with_hooks(layers: nn.Sequential) -> nn.Sequential:
    prune.l1_unstructured(layers[0], "weight", 40)
    prune.ln_structured(layers[2], "weight", 2, 2, 0)
    prune.l1_unstructured(layers[2], "weight", 5)
    return layers


def with_upstream(layers: nn.Sequential) -> nn.Sequential:
    upstream.l1_unstructured(layers[0], "weight", 40)
    upstream.ln_structured(layers[2], "weight", 2, 2, 0)
    upstream.l1_unstructured(layers[2], "weight", 5)
    return layers


def with_parametrizations(layers: nn.Sequential) -> nn.Sequential:
    prune.parametrized(layers[0], "weight", prune.L1Unstructured(40))
    prune.parametrized(layers[2], "weight", prune.LnStructured(2, 2, 0))
    return prune.parametrized(layers[2], "weight", prune.L1Unstructured(5)) and layers


def in_place(layers: nn.Sequential) -> nn.Sequential:
    return prune.in_place(with_hooks(layers))


def in_place_as_bits(layers: nn.Sequential) -> nn.Sequential:
    return prune.in_place(with_hooks(layers), mask_dtype="bits")


#: The form, bytes of the masks of 0.weight, and of its product.
FORMS: list[tuple[Callable[[nn.Sequential], nn.Sequential], str, int, int]] = [
    (with_hooks, "hook", 4 * 96, 4 * 96),
    (with_upstream, "hook", 4 * 96, 4 * 96),
    (with_parametrizations, "parametrization", 4 * 96, 0),
    (in_place, "in place", 96, 0),
    (in_place_as_bits, "in place", 12, 0),
]


@pytest.mark.parametrize(("make", "form", "mask", "product"), FORMS)
def test_every_form(
    make: Callable[[nn.Sequential], nn.Sequential], form: str, mask: int, product: int
) -> None:
    found = prune.report(make(model()))
    assert [t.name for t in found.tensors] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    first, bias, last, _ = found.tensors
    assert (first.form, last.form, bias.form) == (form, form, None)
    assert first.methods == ("L1Unstructured",)
    assert last.methods == ("LnStructured", "L1Unstructured")
    assert (first.shape, first.entries, first.pruned, first.zeros) == ((12, 8), 96, 40, 40)
    assert (first.dtype, first.device) == (torch.float32, torch.device("cpu"))
    assert first.sparsity == 40 / 96 and first.patterns == ("unstructured",)
    assert (last.pruned, last.pruned_channels, last.patterns) == (29, (2, 0), ("unstructured",))
    assert (bias.pruned, bias.zeros, bias.patterns, bias.methods) == (0, 0, (), ())
    assert (first.original_bytes, first.mask_bytes, first.product_bytes) == (384, mask, product)
    assert found.total.tensors == 4 and found.total.entries == 96 + 12 + 96 + 8
    assert found.total_of_pruned.entries == 192
    assert found.total.pruned == found.total_of_pruned.pruned == 69
    assert found.total_of_pruned.sparsity == 69 / 192
    assert {k: t.pruned for k, t in found.by_method.items()} == {
        "L1Unstructured": 69,
        "LnStructured": 29,
    }
    assert found.by_pattern["unstructured"] == found.total_of_pruned


def test_cached() -> None:
    layers = with_hooks(model())
    outside = prune.report(layers)
    with torch.no_grad(), prune.cached(layers):
        inside = prune.report(layers)
    assert {t.form for t in inside.pruned} == {"cached"}
    assert inside.total == outside.total


def test_not_pruned_and_removed() -> None:
    layers = model()
    nn.init.zeros_(layers[0].bias)
    found = prune.report(layers)
    assert found.pruned == () and found.by_pattern == {} and found.total.zeros == 12
    assert found.total.sparsity == found.total_of_pruned.sparsity == 0
    prune.remove(prune.l1_unstructured(layers[0], "weight", 7), "weight")
    found = prune.report(layers)
    assert (found["0.weight"].form, found["0.weight"].zeros, found.total.pruned) == (None, 7, 0)
    assert prune.report(nn.ReLU()).tensors == ()


def test_zeros_are_those_of_the_product() -> None:
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.fill_(1)[0] = 0
    prune.custom_from_mask(layer, "weight", torch.ones(4, 4).tril())
    found = prune.report(layer)["weight"]
    assert (found.pruned, found.zeros) == (6, 7)


PATTERNS: list[tuple[Callable[[Any], Any], tuple[str, ...]]] = [
    (lambda m: prune.nm_structured(m, "weight", 2, 4), ("2:4 along dim 1",)),
    (lambda m: prune.nm_structured(m, "weight", 2, 4, 0), ("2:4 along dim 0",)),
    (
        lambda m: prune.nm_structured(m, "weight", 2, 4, both=True),
        ("2:4 along dim 0", "2:4 along dim 1"),
    ),
    (lambda m: prune.nm_structured(m, "weight", 5, 8), ("5:8 along dim 1",)),
    (lambda m: prune.ln_structured(m, "weight", 2, 2, 0), ("channels of dim 0",)),
    (lambda m: prune.ln_structured(m, "weight", 3, 2, 1), ("channels of dim 1",)),
    (
        lambda m: prune.ln_structured(prune.ln_structured(m, "weight", 3, 2, 1), "weight", 1, 2, 0),
        ("channels of dim 0 and 1",),
    ),
    (lambda m: prune.block_structured(m, "weight", 5, (4, 3)), ("blocks of 4 x 3",)),
    (lambda m: prune.l1_unstructured(m, "weight", 0.4), ("unstructured",)),
    (lambda m: prune.l1_unstructured(m, "weight", 1.0), ("nothing left",)),
    (lambda m: prune.identity(m, "weight"), ()),
]


@pytest.mark.parametrize(("apply", "patterns"), PATTERNS)
@pytest.mark.parametrize("layer", [nn.Linear, lambda i, o: nn.Conv2d(i, o, 3)])
def test_patterns(layer: Any, apply: Callable[[Any], Any], patterns: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    module = layer(16, 13 if "blocks" in str(patterns) else 12)
    apply(module)
    found = prune.report(module)["weight"]
    assert found.patterns == patterns
    assert found.pruned == (module.weight_mask == 0).sum()
    kept = [module.weight_mask.transpose(0, dim).flatten(1).any(1) for dim in (0, 1)]
    assert found.pruned_channels == tuple(int((~left).sum()) for left in kept)


def test_rounds_of_global_unstructured_are_told_from_masks() -> None:
    layers = model()
    pairs = [(layers[0], "weight"), (layers[2], "weight")]
    for _ in range(2):
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.5)
    prune.custom_from_mask(layers[2], "weight", torch.ones(8, 12))
    by = ["CustomFromMask (global_unstructured)"] * 2
    found = prune.report(layers)
    assert found["0.weight"].methods == tuple(by)
    assert found["2.weight"].methods == (*by, "CustomFromMask")
    assert "(global_unstructured)" in plain_text(found)


def test_patterns_that_no_method_says() -> None:
    layer = nn.Linear(16, 8)
    mask = torch.tensor([1.0, 0, 0, 0]).repeat(8, 4)
    prune.custom_from_mask(layer, "weight", mask)
    found = prune.report(layer, nm=[(1, 4), (4, 8), (3, 3)])["weight"]
    assert found.patterns == ("channels of dim 1", "1:4 along dim 1", "4:8 along dim 1")
    for pair in ((2, 0), (5, 4), (1, 65), (-1, 4)):
        with pytest.raises(ValueError, match="expected 0 <= n <= m"):
            prune.report(layer, nm=[pair])


def test_a_block_that_is_broken_is_no_pattern() -> None:
    layer = prune.block_structured(nn.Linear(16, 8), "weight", 2, (4, 4))
    prune.l1_unstructured(layer, "weight", 1)
    assert prune.report(layer)["weight"].patterns == ("unstructured",)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (0, 4), (3, 0), (2, 3), (1, 1, 2, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_shapes_and_dtypes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    module = nn.Module()
    module.weight = nn.Parameter(torch.ones(shape, dtype=dtype))
    mask = torch.zeros(shape)
    prune.custom_from_mask(module, "weight", mask)
    found = prune.report(module)["weight"]
    assert (found.entries, found.pruned, found.zeros) == (mask.numel(),) * 3
    assert (found.patterns == ()) == (mask.numel() == 0)


# ---- where parameters are ----


def test_tied_ones_count_once() -> None:
    layers = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    layers[1].weight = layers[2].weight = layers[0].weight
    prune.l1_unstructured(layers[1], "weight", 9)
    layers.append(layers[1])  # a module that is there twice
    found = prune.report(layers)
    first = found["1.weight"]
    assert first is found["0.weight"] and set(first.shared) == {"0.weight", "2.weight"}
    assert (found.total.entries, found.total.pruned) == (36 + 18, 9)
    prune.l1_unstructured(layers[2], "weight", 3)
    found = prune.report(layers)
    assert found.total.tensors == 4 and found["2.weight"].mask_bytes == 2 * 4 * 36


def test_tied_with_a_parametrization() -> None:
    layers = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    prune.parametrized(layers[0], "weight", prune.L1Unstructured(9))
    layers[1].weight = layers[0].parametrizations.weight.original
    found = prune.report(layers)
    assert found["1.weight"] is found["0.weight"]
    assert found.total.entries == 36 + 12


def test_beside_other_parametrizations() -> None:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))
    prune.parametrized(layer, "weight", prune.L1Unstructured(9))
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    found = prune.report(layer)
    assert (found["weight"].pruned, found.total.entries) == (9, 42)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


def test_attention_and_rnns() -> None:
    layers = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "rnn": nn.LSTM(4, 4)})
    prune.l1_unstructured(layers["attention"].out_proj, "weight", 10)
    prune.l1_unstructured(layers["attention"], "in_proj_weight", 11)
    prune.l1_unstructured(layers["rnn"], "weight_hh_l0", 12)
    found = prune.report(layers)
    assert {t.name: t.pruned for t in found.pruned} == {
        "attention.in_proj_weight": 11,
        "attention.out_proj.weight": 10,
        "rnn.weight_hh_l0": 12,
    }
    assert found["attention.out_proj.weight"].product_bytes == 0


def test_without_values() -> None:
    with pytest.raises(ValueError, match=r"expected weight to have values, got one on the meta"):
        prune.report(nn.Linear(2, 2, device="meta"))
    with pytest.raises(ValueError, match=r"expected 0.weight to have values, got a lazy one"):
        prune.report(nn.Sequential(nn.LazyLinear(2)))


# ---- what it does to the model, and to the device ----


@pytest.mark.parametrize("make", [with_hooks, in_place, in_place_as_bits, with_parametrizations])
def test_the_model_stays_as_it_is(make: Callable[[nn.Sequential], nn.Sequential]) -> None:
    layers = make(model())
    before = [(m, snapshot(m)) for m in layers.modules()]
    prune.report(layers)
    for module, was in before:
        assert_unchanged(module, was)
    assert all(p.grad is None for p in layers.parameters())


class Reads(TorchDispatchMode):
    """Notes the operators that wait for the device, and copies to another one or to the host."""

    WAIT = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2"}

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        moves = name in ("_to_copy", "copy_") and "device" in (kwargs or {})
        if name in self.WAIT or moves or (name == "index" and _has_bool(args[1])):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def _has_bool(indices: Any) -> bool:
    return any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indices)


def test_the_watch_sees_reads() -> None:
    with Reads() as reads:
        assert int(torch.ones(3).sum()) == 3
        assert torch.ones(3)[torch.ones(3) > 0].numel() == 3
    assert reads.seen == ["_local_scalar_dense", "index"]


def mixture() -> nn.Sequential:
    layers = nn.Sequential(*(nn.Linear(16, 12) for _ in range(5)), nn.Conv2d(4, 4, 3))
    prune.nm_structured(layers[0], "weight", 2, 4)
    prune.block_structured(layers[1], "weight", 0.5, (5, 4))
    prune.ln_structured(layers[2], "weight", 2, 2, 0)
    prune.in_place(layers, mask_dtype="bits")
    prune.parametrized(layers[3], "weight", prune.L1Unstructured(9))
    prune.l1_unstructured(layers[5], "weight", 9)
    return layers


def test_the_device_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(counts: Tensor) -> list[int]:
        calls.append(counts.numel())
        return counts.tolist()

    monkeypatch.setattr(reporting, "_to_host", counted)
    layers = mixture()
    with Reads() as reads:
        prune.report(layers)
    assert reads.seen == []
    assert len(calls) == 1 and calls[0] > 12  # counts of six layers


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_the_gpu_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def allowed(counts: Tensor) -> list[int]:
        torch.cuda.set_sync_debug_mode("default")
        numbers = counts.tolist()
        torch.cuda.set_sync_debug_mode("error")
        return numbers

    layers = mixture()
    expected = prune.report(layers).to_dict()
    layers.cuda()
    monkeypatch.setattr(reporting, "_to_host", allowed)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = prune.report(layers).to_dict()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for tensor in found["tensors"]:
        assert tensor["device"] == "cuda:0"
        tensor["device"] = "cpu"
    assert found == expected


# ---- as data ----


def test_as_json() -> None:
    found = prune.report(with_hooks(model()))
    data = found.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["tensors"][0]["name"] == "0.weight"
    assert data["tensors"][0]["dtype"] == "torch.float32"
    assert data["total"]["sparsity"] == found.total.sparsity
    assert list(data["by_method"]) == ["L1Unstructured", "LnStructured"]
    assert list(data["by_pattern"]) == ["unstructured"]


def test_names() -> None:
    found = prune.report(with_hooks(model()))
    assert found["2.weight"].pruned == 29
    with pytest.raises(KeyError, match="weight_orig"):
        found["2.weight_orig"]


def test_it_holds_no_model() -> None:
    layers = with_hooks(model())
    found = prune.report(layers)
    for twin in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert twin == found and twin.model is None
    assert found.model is not None and found.model() is layers
    del layers
    assert found.model() is None


# ---- as a table ----


def test_table(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "160")  # cells of a narrow terminal take several lines
    found = prune.report(with_hooks(model()))
    shown = str(found)
    assert found.table().row_count == 2 + 1 + 2
    for text in ("0.weight", "LnStructured + L1Unstructured", "41.67%", "all parameters"):
        assert text in shown
    assert "\x1b" not in shown


def test_markup_in_names_is_text() -> None:
    pytest.importorskip("rich")
    layers = nn.ModuleDict({"[bold]": prune.l1_unstructured(nn.Linear(2, 2), "weight", 1)})
    assert "[bold].weight" in str(prune.report(layers))


def test_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    found = prune.report(with_hooks(model()))
    for name in ("rich", "rich.console", "rich.table", "rich.text"):
        monkeypatch.setitem(sys.modules, name, None)
    assert str(found) == plain_text(found)
    with pytest.raises(ImportError, match="pip install rich"):
        found.table()
    lines = str(found).splitlines()
    header, last = lines[0], lines[-1]
    assert header.index("sparsity") + len("sparsity") == last.index("%") + 1
    assert last.split()[:2] == ["all", "parameters"]


def test_text_of_a_model_without_pruning() -> None:
    assert "all parameters" in str(prune.report(model()))
    assert "all parameters" in plain_text(prune.report(model()))


# ---- as plots ----


@pytest.mark.parametrize("make", [with_hooks, in_place_as_bits, with_parametrizations])
@pytest.mark.parametrize("kind", ["sparsity", "histogram", "mask"])
def test_plots(tmp_path: Path, kind: Any, make: Callable[[nn.Sequential], nn.Sequential]) -> None:
    pytest.importorskip("matplotlib")
    layers = make(model())
    path = tmp_path / "plot.png"
    figure = prune.report(layers).plot(kind, path=path)
    assert figure.axes and path.read_bytes().startswith(b"\x89PNG")


def test_what_the_plots_show() -> None:
    pytest.importorskip("matplotlib")
    layers = with_hooks(model())
    found = prune.report(layers)
    (bars,) = found.plot().axes[0].containers
    assert [bar.get_width() for bar in bars] == [t.sparsity for t in found.pruned]
    (image,) = found.plot("mask", "0.weight").axes[0].images
    assert torch.equal(torch.tensor(image.get_array().tolist()).float(), layers[0].weight_mask)
    axes = found.plot("histogram", "0.weight").axes[0]
    kept, both = (patch.get_data() for patch in axes.patches)
    assert kept.values.sum() == 56
    assert (both.values - both.baseline).sum() == 40
    lowest = layers[0].weight_orig[layers[0].weight_mask == 1].abs().min()
    assert list(axes.lines[0].get_xdata()) == [lowest.item()] * 2


def test_a_large_mask_is_drawn_by_means() -> None:
    pytest.importorskip("matplotlib")
    layer = prune.l1_unstructured(nn.Linear(1024, 3), "weight", 0.25)
    (image,) = prune.report(layer).plot("mask").axes[0].images
    array = image.get_array()
    assert array.shape == (3, 512)
    assert array.mean() == pytest.approx(0.75)


def test_plots_that_cannot_be() -> None:
    pytest.importorskip("matplotlib")
    layers = with_hooks(model())
    found = prune.report(layers)
    with pytest.raises(ValueError, match="expected kind to be one of"):
        found.plot("pie")  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="nothing"):
        found.plot("mask", "nothing")
    with pytest.raises(ValueError, match=r"expected 0\.bias to be pruned"):
        found.plot("mask", "0.bias")
    with pytest.raises(ValueError, match="expected a model with a pruned tensor"):
        prune.report(model()).plot()
    assert found.plot("histogram", "0.bias").axes
    del layers
    with pytest.raises(RuntimeError, match="expected the model"):
        found.plot("mask")
    assert found.plot().axes  # needs no model


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        prune.report(with_hooks(model())).plot()


# ---- spread over processes ----


@pytest.mark.parametrize("name", names_in(__file__))
def test_on_ranks(name: str) -> None:
    failed = failures(__file__)
    assert name not in failed, failed[name]


def counts(found: Any) -> list[Any]:
    return [(t.name, t.entries, t.pruned, t.zeros, t.patterns) for t in found.tensors]


@check
def dtensors() -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    whole_layer, layer = nn.Linear(9, 8), nn.Linear(9, 8)
    for dim in (0, 1):
        spread = distribute_tensor(whole_layer.weight.detach(), mesh_of(), [Shard(dim)])
        layer.weight = nn.Parameter(spread)
        prune.l1_unstructured(layer, "weight", 30)
        expected = copy.deepcopy(whole_layer)
        prune.custom_from_mask(expected, "weight", whole(layer.weight_mask))
        found = prune.report(layer)
        assert counts(found) == counts(prune.report(expected))
        assert found["weight"].original_bytes < expected.weight_orig.nbytes
        with pytest.raises((NotImplementedError, ImportError)):
            found.plot("mask")
        prune.remove(layer, "weight")


@check
def fully_sharded() -> None:
    from torch.distributed.fsdp import fully_shard

    for make in (model_pruned, lambda: prune.in_place(model_pruned())):
        layers = make()
        expected = counts(prune.report(layers))
        fully_shard(layers, mesh=mesh_of())
        assert counts(prune.report(layers)) == expected
        layers(torch.ones(2, 7)).sum().backward()
        assert counts(prune.report(layers)) == expected
