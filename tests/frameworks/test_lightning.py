"""Lightning's ModelPruning, with our classes and under patch()."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn
from torch.utils.data import DataLoader

import fastprune as prune
from frameworks.page import run_snippet

L = pytest.importorskip("lightning")
callbacks = pytest.importorskip("lightning.pytorch.callbacks")

pytestmark = pytest.mark.filterwarnings("ignore")  # of workers and loggers


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.layers(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Masks(L.Callback):
    """Keeps the masks as they are at the end of each epoch."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_train_epoch_end(self, trainer: Any, module: nn.Module) -> None:
        buffers = module.named_buffers()
        self.seen.append({k: m.clone() for k, m in buffers if k.endswith("_mask")})


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 12, generator=generator)
    y = torch.randint(4, (32,), generator=generator)
    return DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)


def fit(module: nn.Module, folder: Path, *more: Any, epochs: int = 2, **kwargs: Any) -> Any:
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(more),
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader(), **kwargs)
    return trainer


def trained(folder: Path, pruning_fn: Any, **options: Any) -> tuple[Net, Any, Masks]:
    torch.manual_seed(3)
    net, masks = Net(), Masks()
    pruning = callbacks.ModelPruning(pruning_fn, parameter_names=["weight"], amount=0.4, **options)
    return net, fit(net, folder, pruning, masks), masks


def assert_same(ours: tuple[Net, Any, Masks], theirs: tuple[Net, Any, Masks]) -> None:
    assert len(ours[2].seen) == len(theirs[2].seen) == 2
    for mine, expected in zip(ours[2].seen, theirs[2].seen, strict=True):
        assert len(expected) == 2 and mine.keys() == expected.keys()
        for name, mask in expected.items():
            assert torch.equal(mine[name], mask), name
    mine, expected = ours[0].state_dict(), theirs[0].state_dict()
    assert mine.keys() == expected.keys()
    for name, t in expected.items():
        assert torch.equal(mine[name], t), name


@pytest.fixture(autouse=True)
def _unpatched() -> Iterator[None]:
    yield
    prune.unpatch()


CASES = {
    "global": {"pruning_fn": "l1_unstructured"},
    "global, random": {"pruning_fn": "random_unstructured"},
    "one by one": {"pruning_fn": "l1_unstructured", "use_global_unstructured": False},
    "channels": {
        "pruning_fn": "ln_structured",
        "use_global_unstructured": False,
        "pruning_norm": 2,
        "pruning_dim": 0,
    },
    "not set back": {"pruning_fn": "l1_unstructured", "use_lottery_ticket_hypothesis": False},
    "masks kept": {"pruning_fn": "l1_unstructured", "make_pruning_permanent": False},
}


@pytest.mark.parametrize("case", CASES)
def test_same_masks_under_patch(case: str, tmp_path: Path) -> None:
    theirs = trained(tmp_path, **CASES[case])
    with prune.patch():
        ours = trained(tmp_path, **CASES[case])
    assert_same(ours, theirs)


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("name", ["L1Unstructured", "RandomUnstructured"])
def test_same_masks_with_our_classes(name: str, patched: bool, tmp_path: Path) -> None:
    theirs = trained(tmp_path, getattr(upstream, name), make_pruning_permanent=False)
    with prune.patch() if patched else nullcontext():
        ours = trained(tmp_path, getattr(prune, name), make_pruning_permanent=False)
    assert_same(ours, theirs)


class Smallest(prune.Unstructured):
    """A method of a user's: by value, not by magnitude."""

    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        return t


def test_class_with_scores_of_its_own(tmp_path: Path) -> None:
    net, _, masks = trained(tmp_path, Smallest, use_lottery_ticket_hypothesis=False)
    first = masks.seen[0]
    total = sum(mask.numel() for mask in first.values())
    assert sum(int((mask == 0).sum()) for mask in first.values()) == round(0.4 * total)
    assert not prune.is_pruned(net)


@pytest.mark.parametrize("patched", [False, True])
def test_permanent_checkpoint_loads(patched: bool, tmp_path: Path) -> None:
    with prune.patch() if patched else nullcontext():
        net, trainer, masks = trained(tmp_path, prune.L1Unstructured)
        trainer.save_checkpoint(tmp_path / "it.ckpt")
    loaded = Net.load_from_checkpoint(tmp_path / "it.ckpt")
    for name, mask in masks.seen[-1].items():
        weight = loaded.get_parameter(name.removesuffix("_mask"))
        assert torch.equal(weight, net.get_parameter(name.removesuffix("_mask")))
        assert not weight[mask == 0].any()


def test_checkpoint_with_masks_loads(tmp_path: Path) -> None:
    with prune.patch():
        net, trainer, _ = trained(tmp_path, "l1_unstructured", make_pruning_permanent=False)
        trainer.save_checkpoint(tmp_path / "it.ckpt")
    state = torch.load(tmp_path / "it.ckpt", weights_only=True)["state_dict"]
    fresh = prune.attach(Net(), state)
    fresh.load_state_dict(state)
    x = torch.randn(5, 12)
    assert torch.equal(fresh.layers(x), net.layers(x))
    assert prune.is_pruned(fresh)


def test_goes_on_from_a_checkpoint_saved_while_training(tmp_path: Path) -> None:
    def run(folder: Path) -> Net:
        torch.manual_seed(3)
        pruning = callbacks.ModelPruning("l1_unstructured", parameter_names=["weight"], amount=0.4)
        trainer = fit(Net(), folder, pruning, epochs=1)
        trainer.save_checkpoint(folder / "one.ckpt")
        net = Net()
        more = callbacks.ModelPruning("l1_unstructured", parameter_names=["weight"], amount=0.6)
        fit(net, folder, more, epochs=2, ckpt_path=folder / "one.ckpt")
        return net

    theirs = run(tmp_path)
    with prune.patch():
        ours = run(tmp_path)
    for name, t in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], t), name


class InPlace(Net):
    """Prunes itself in place, by the optimizer as Lightning wraps it."""

    def on_train_start(self) -> None:
        for layer in (self.layers[0], self.layers[2]):
            prune.l1_unstructured(layer, "weight", amount=0.5)
        prune.in_place(self, self.optimizers(), persistent=False)


def test_in_place_takes_the_optimizer_of_lightning(tmp_path: Path) -> None:
    net = InPlace()
    trainer = fit(net, tmp_path)
    (optimizer,) = trainer.optimizers
    for layer in (net.layers[0], net.layers[2]):
        pruned = ~layer.get_buffer("weight_mask")
        assert pruned.sum() == pruned.numel() // 2
        assert not layer.weight[pruned].any()
        assert not optimizer.state[layer.weight]["exp_avg"][pruned].any()
        assert layer.weight[~pruned].all()


def test_in_place_takes_the_optimizer_of_fabric() -> None:
    fabric = L.Fabric(accelerator="cpu", devices=1)
    net = nn.Linear(8, 8)
    model, optimizer = fabric.setup(net, torch.optim.Adam(net.parameters()))
    prune.l1_unstructured(net, "weight", amount=0.5)
    prune.in_place(model, optimizer)
    fabric.backward(model(torch.randn(3, 8)).square().sum())
    optimizer.step()
    pruned = ~net.get_buffer("weight_mask")
    assert not net.weight[pruned].any()
    assert not net.weight.grad[pruned].any()


def test_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = Net()
    run_snippet("Lightning", {"model": net, "loader": loader()})
    loaded = Net.load_from_checkpoint("pruned.ckpt")
    weights = [layer.weight for layer in (loaded.layers[0], loaded.layers[2])]
    total = sum(w.numel() for w in weights)
    assert sum(int((w == 0).sum()) for w in weights) == total * 3 // 4
    assert upstream.L1Unstructured.apply.__func__.__module__ == "torch.nn.utils.prune"
