"""Train a small decoder under FSDP2, prune it globally on a schedule, save it, load it elsewhere.

    torchrun --nproc-per-node 4 examples/prune_fsdp.py --checkpoint /tmp/pruned
    torchrun --nproc-per-node 2 examples/prune_fsdp.py --checkpoint /tmp/pruned --load

Runs on CPUs (gloo). The second command, with any number of processes, loads what the first has
saved, and checks that masks and loss are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_checkpoint
from torch.distributed.checkpoint.state_dict_saver import save as save_checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import fastprune as prune

WORDS, WIDTH, LENGTH, BATCH = 64, 64, 32, 16


class Block(nn.Module):
    """A layer of a decoder: causal attention, then two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (4, -1)).transpose(1, 2)
            for part in self.qkv(self.norms[0](x)).chunk(3, dim=-1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(self.up(self.norms[1](x)).relu())


class Decoder(nn.Module):
    """Predicts each next word."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.places = nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList([Block() for _ in range(3)])
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, text: Tensor) -> Tensor:
        x = self.words(text) + self.places.weight[: text.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x)
        return logits


def to_prune(model: nn.Module) -> list[tuple[nn.Module, str]]:
    return [(module, "weight") for module in model.modules() if isinstance(module, nn.Linear)]


def sharded_decoder() -> Decoder:
    torch.manual_seed(0)
    model = Decoder()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def some_text(seed: int) -> Tensor:
    """Sequences in which each word follows from the two before, the same in all processes."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(WORDS, (BATCH, LENGTH), generator=generator)
    for i in range(2, LENGTH):
        text[:, i] = (text[:, i - 1] * 3 + text[:, i - 2]) % WORDS
    return text


def loss_of(model: nn.Module, text: Tensor) -> Tensor:
    logits = model(text)[:, :-1]
    return nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())


def summary(model: nn.Module) -> dict[str, Any]:
    """The loss on text of its own, and the masks: how much is pruned, and a hash."""
    with torch.no_grad():
        loss = loss_of(model, some_text(1 << 20)).item()
    digest, kept, entries = hashlib.sha256(), 0, 0
    for module, name in to_prune(model):
        mask = getattr(module, name + "_mask").full_tensor()
        digest.update(mask.bool().numpy().tobytes())
        kept += int(mask.sum())
        entries += mask.numel()
    return {"loss": loss, "sparsity": 1 - kept / entries, "masks": digest.hexdigest()}


def train(checkpoint: Path, steps: int, rounds: int) -> None:
    model = sharded_decoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        if step % (steps // (rounds + 1)) == 0 and 0 < step <= rounds * (steps // (rounds + 1)):
            # A quarter of what is left, over all layers and all processes together.
            prune.global_unstructured(to_prune(model), prune.L1Unstructured, amount=0.25)
        loss = loss_of(model, some_text(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if dist.get_rank() == 0 and step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    prune.check_ranks(model)
    save_checkpoint(get_model_state_dict(model), checkpoint_id=checkpoint)
    result = summary(model)
    if dist.get_rank() == 0:
        (checkpoint / "summary.json").write_text(json.dumps(result))
        print(f"saved by {dist.get_world_size()}: {result}")


def load(checkpoint: Path) -> None:
    model = sharded_decoder()
    for module, name in to_prune(model):
        prune.identity(module, name)  # the names of a pruned model
    state = get_model_state_dict(model)
    load_checkpoint(state, checkpoint_id=checkpoint)
    set_model_state_dict(model, state)
    result = summary(model)
    saved = json.loads((checkpoint / "summary.json").read_text())
    if dist.get_rank() == 0:
        print(f"loaded by {dist.get_world_size()}: {result}")
    if result["masks"] != saved["masks"] or abs(result["loss"] - saved["loss"]) > 1e-4:
        raise SystemExit(f"expected what was saved, {saved}, got {result}")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="a folder")
    parser.add_argument("--load", action="store_true", help="load rather than train")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=4, help="of pruning")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    if arguments.load:
        load(arguments.checkpoint)
    else:
        train(arguments.checkpoint, arguments.steps, arguments.rounds)
    dist.barrier()
    dist.destroy_process_group()
    # DTensor's caches keep the group, so gloo's threads run on. One that frees a tensor while the
    # interpreter ends aborts the process (pytorch/pytorch#190489).
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
