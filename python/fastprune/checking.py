"""check_ranks: whether all processes prune alike."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .dtensors import is_dtensor
from .lookup import IN_PLACE, all_pruning_hooks
from .parametrization import mask_of, names_masked
from .sharded import collective_device

__all__ = ["check_ranks"]

#: Entries that are converted to int64 at once.
_BLOCK = 1 << 20
#: Odd numbers without a pattern, for the hash (from SplitMix64), as int64.
_FACTORS = (-0x61C8864680B583EB, -0x40A7B892E31B1A47)


def check_ranks(model: nn.Module, group: Any = None) -> None:
    """Check that the masks of ``model`` are the same in all processes.

    As :class:`torch.nn.parallel.DistributedDataParallel` needs them, which does not compare them.

    Every process of the group has to call it. One hash is sent by each, and more only if they
    differ. A mask that is a DTensor is compared among the processes that have copies of the same
    part of it, those along a ``Replicate`` dim.

    >>> from torch import distributed as dist
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> model = nn.Sequential(nn.Linear(8, 4))
    >>> m = prune.l1_unstructured(model[0], "weight", amount=0.5)
    >>> prune.check_ranks(model)
    >>> dist.destroy_process_group()

    Args:
        model: with all its submodules, pruned in any form.
        group: a process group; None for the default one.

    Raises:
        RuntimeError: a mask is another one, or missing, in some process. The message, the same in
            all processes, names it and them.
        ValueError: this process is not one of the group, or torch.distributed is not initialized.
    """
    found = {
        f"{path}.{name}" if path else name: mask
        for path, module in model.named_modules(remove_duplicate=False)
        for name, mask in _masks_of(module)
    }
    said = _difference({name: _described(mask) for name, mask in found.items()}, group)
    if said is not None:
        raise RuntimeError(said)
    copies: dict[int, tuple[Any, dict[str, str]]] = {}
    for name, mask in found.items():
        if not is_dtensor(mask):
            continue
        spread: Any = mask
        for dim, placement in enumerate(spread.placements):
            if placement.is_replicate() and spread.device_mesh.size(dim) > 1:
                along = spread.device_mesh.get_group(dim)
                _, hashes = copies.setdefault(id(along), (along, {}))
                hashes[name] = f"{_hash(spread.to_local()):x}"
    if any(is_dtensor(mask) for mask in found.values()):  # in all processes, as was compared
        mine = [_difference(hashes, along) for along, hashes in copies.values()]
        everyone: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(everyone, mine, group=group)
        for said in itertools.chain(*everyone):
            if said is not None:
                raise RuntimeError(said)


def _masks_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a module that are pruned, and their masks."""
    names = [hook._tensor_name for hook in all_pruning_hooks(module)]
    names += [*module.__dict__.get(IN_PLACE, ()), *names_masked(module)]
    for name in names:
        mask = mask_of(module, name)
        if mask is not None:
            yield name, mask


def _described(mask: Any) -> str:
    """What has to be the same everywhere."""
    if is_dtensor(mask):
        return f"{mask.dtype}, {list(mask.shape)}, {mask.placements}"
    return f"{mask.dtype}, {list(mask.shape)}, {_hash(mask):x}"


def _hash(t: Tensor) -> int:
    """Of the values in logical order and their places; -0 and 0 are the same, and so are NaNs."""
    flat = t.detach().reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat.resolve_conj()).reshape(-1)
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for number, block in enumerate(flat.split(_BLOCK)):
        values = block.double()
        values = torch.where(values.isnan(), torch.nan, values + 0.0).view(torch.int64)
        places = torch.arange(len(block), device=flat.device) + number * _BLOCK + 1
        mixed = (places * _FACTORS[0]) ^ ((places * _FACTORS[1]) >> 31)
        total += ((values ^ (values >> 29)) * (mixed | 1)).sum()
    return int(total) & 0xFFFFFFFFFFFFFFFF


def _difference(mine: dict[str, str], group: Any) -> str | None:
    """What is not the same in all processes of a group, or None."""
    size = dist.get_world_size(group)
    if size < 1:
        raise ValueError(f"expected this process to be one of the group, got {group}")
    text = "\n".join(f"{name}: {value}" for name, value in sorted(mine.items()))
    digest = torch.tensor([_of_text(text)], device=collective_device(group))
    together = [torch.empty_like(digest) for _ in range(size)]
    dist.all_gather(together, digest, group=group)
    if len({int(each) for each in together}) == 1:
        return None
    everyone: list[Any] = [None] * size
    dist.all_gather_object(everyone, mine, group=group)
    ranks = dist.get_process_group_ranks(group)
    names = sorted({name for each in everyone for name in each})
    differ = [name for name in names if len({each.get(name) for each in everyone}) > 1]
    said = []
    for name in differ[:5]:
        kinds: dict[Any, list[int]] = {}
        for rank, each in zip(ranks, everyone, strict=True):
            kinds.setdefault(each.get(name), []).append(rank)
        said.append(
            f"{name}: "
            + "; ".join(
                f"{'none' if value is None else value} on {_listed(of)}"
                for value, of in kinds.items()
            )
        )
    more = f"; and {len(differ) - len(said)} more" if len(differ) > len(said) else ""
    return (
        f"expected the same masks on all ranks, got {len(differ)} that differ (dtype, shape, "
        f"hash): {'. '.join(said)}{more}"
    )


def _listed(ranks: list[int]) -> str:
    some = ", ".join(map(str, ranks[:8]))
    name = "ranks" if len(ranks) > 1 else "rank"
    return f"{name} {some}" + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")


def _of_text(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
