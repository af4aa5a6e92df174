"""DDP as accelerate and the Trainer of transformers set it up, on the CPU."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fastprune as prune
from support.ranks import check, failures, names_in

accelerate = pytest.importorskip("accelerate")
transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("name", names_in(__file__))
def test_on_ranks(name: str) -> None:
    failed = failures(__file__, 2)
    assert name not in failed, failed[name]


@contextmanager
def launched() -> Iterator[None]:
    """What a launcher tells a process, whose group exists already."""
    rank, size = dist.get_rank(), dist.get_world_size()
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500, "ACCELERATE_USE_CPU": "true"}
    os.environ.update({name: str(value) for name, value in told.items()})
    yield
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@check
def accelerate_in_place() -> None:
    with launched():
        made = accelerate.Accelerator(cpu=True)
        torch.manual_seed(dist.get_rank())  # DDP sends the first one's
        model: Any = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
        model, optimizer = made.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.01))
        assert isinstance(model, DistributedDataParallel)
        pairs = [(m, "weight") for m in model.modules() if isinstance(m, nn.Linear)]
        prune.global_unstructured(pairs, prune.L1Unstructured, sparsity=0.75)
        prune.in_place(model, optimizer)
        prune.check_ranks(model)
        for _ in range(3):
            made.backward(model(torch.randn(8, 12)).square().sum())
            prune.mask_gradients(model)
            made.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
        for module, _ in pairs:
            assert torch.equal(module.weight != 0, module.get_buffer("weight_mask"))
            check_equal(module.weight.detach())


@check
def trainer_of_transformers() -> None:
    from fastprune.integrations.transformers import PruningCallback

    with launched(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(5)
        config = transformers.GPT2Config(
            vocab_size=32, n_positions=8, n_embd=16, n_layer=1, n_head=2
        )
        model = transformers.GPT2LMHeadModel(config)
        ids = torch.randint(32, (64, 8))
        arguments = transformers.TrainingArguments(
            str(folder),
            max_steps=4,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            save_strategy="no",
            per_device_train_batch_size=4,
        )
        trainer = transformers.Trainer(
            model,
            arguments,
            train_dataset=[{"input_ids": row, "labels": row} for row in ids],
            callbacks=[PruningCallback(lambda step: 0.2 * step, every=2)],
        )
        trainer.train()
        assert isinstance(trainer.model_wrapped, DistributedDataParallel)
        pruned = [m for m in model.modules() if hasattr(m, "weight_mask")]
        assert len(pruned) == 4
        total = sum(m.weight.numel() for m in pruned)
        assert sum(int((m.weight == 0).sum()) for m in pruned) == round(0.8 * total)
        for module in pruned:
            assert torch.equal(module.weight != 0, module.get_buffer("weight_mask"))
            check_equal(module.weight.detach())


def check_equal(t: torch.Tensor) -> None:
    """All processes have the same."""
    first = t.clone()
    dist.broadcast(first, 0)
    assert torch.equal(t, first)
