"""Parameters that are DTensors: where their masks are placed, and what cannot be done with them.

Their products are ATen's, whose operators DTensor knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from sys import modules
from typing import Any

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

from . import fsdp2
from .dtensors import DTENSOR, is_dtensor
from .fsdp2 import ShardingError
from .lookup import SHARDS
from .native import kind_of

_PLAIN = (Tensor, nn.Parameter)
_HAVE_MASKS = (upstream.CustomFromMask, upstream.Identity)


class PeerError(RuntimeError):
    """Another process of the group failed; nothing was pruned in any."""


def is_group(thing: Any) -> bool:
    """Whether it is a process group, or what ``new_group`` returns to a process outside of it."""
    kind = getattr(torch.distributed, "ProcessGroup", None)
    if kind is None:
        return False
    return isinstance(thing, kind) or thing is torch.distributed.GroupMember.NON_GROUP_MEMBER


def collective_device(group: Any) -> torch.device:
    """Where the tensors have to be that the backend of a group communicates."""
    if "nccl" in torch.distributed.get_backend(group):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def on_other_mesh(mask: Tensor, t: Tensor) -> bool:
    """Whether ``t`` is a DTensor and ``mask`` is none, or one of other processes."""
    return is_dtensor(t) and getattr(mask, "device_mesh", None) != t.device_mesh  # type: ignore[attr-defined]


def get_shards(pairs: Iterable[tuple[nn.Module, str]], method: Any) -> None:
    """Before a method is applied to tensors under FSDP2: let the modules hold their shards.

    After a forward without a backward they may hold the whole tensors. A method that cannot select
    from shards is left to those.

    Args:
        pairs: (module, name).
        method: or its class.

    Raises:
        RuntimeError: inside of a forward or backward that uses them.
    """
    if not fsdp2.is_used():
        return
    from . import shard_masks

    kind = method if isinstance(method, type) else type(method)
    for module, name in pairs:
        pruned = name + "_orig" in module._parameters
        managed = fsdp2.find_cached(module, name + "_orig" if pruned else name)
        if managed is None:
            continue
        if not pruned or kind_of(kind) is not None or issubclass(kind, _HAVE_MASKS):
            managed.shard(module)
        if pruned and not managed.is_unsharded(module):
            shard_masks.find(module, name)


def prepare(method: Any, module: nn.Module, name: str, *, pruned: bool, selects: bool) -> None:
    """Before ``method`` is applied to ``module.<name>``: refuse what cannot work, place its mask.

    A mask that is given is placed like the mask or the parameter that it will be multiplied with:
    a plain one is cut without communication, a DTensor is redistributed.

    Args:
        method: will be applied; its ``mask`` is replaced.
        module: holds the tensor.
        name: of the tensor, without ``_orig``.
        pruned: whether it is pruned already.
        selects: whether the method selects over processes.

    Raises:
        ShardingError: the parameter is under ``fully_shard``, and entries would be selected from a
            shard.
    """
    managed = fsdp2.find_cached(module, name + "_orig" if pruned else name)
    if managed is not None:
        managed.check_idle(module)
    if managed is not None and not selects:
        check_fsdp2(method, managed, module, name)
    if not isinstance(method, upstream.CustomFromMask):
        return
    given: Any = getattr(method, "mask", None)
    like: Any = module._buffers.get(name + "_mask") if pruned else module._parameters.get(name)
    if type(given) in _PLAIN and type(like) in _PLAIN:
        return
    if not isinstance(given, Tensor) or like is None or given.shape != like.shape:
        return  # upstream's error comes
    if managed is not None and is_dtensor(like) and not is_dtensor(given):
        method.mask = managed.shard_of_mask(given, managed.shard(module))
    elif is_dtensor(like):
        method.mask = placed(given, like.device_mesh, like.placements)
    elif is_dtensor(given) and managed is not None:
        method.mask = given.full_tensor()  # type: ignore[attr-defined] # as the old mask is whole


def placed(mask: Tensor, mesh: Any, placements: Sequence[Any]) -> Tensor:
    """A mask, plain or a DTensor, as a DTensor of this mesh with these placements."""
    from torch.distributed.tensor import DTensor, Replicate

    if any(p.is_partial() for p in placements):  # no placement of a parameter
        return mask
    if isinstance(mask, DTensor) and mask.device_mesh == mesh:
        is_there = mask.placements == tuple(placements)
        return mask if is_there else mask.redistribute(mesh, placements)
    # Not distribute_tensor, which would cut a mask that has a gradient from its graph.
    whole = mask.full_tensor() if isinstance(mask, DTensor) else mask.to(mesh.device_type)
    replicated = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(mesh, placements)


def check_fsdp2(method: Any, managed: Any, module: nn.Module, name: str) -> None:
    """Raise ShardingError where a method cannot select from a parameter under ``fully_shard``."""
    if managed.is_unsharded(module) or _has_its_mask(method):
        return
    raise ShardingError(
        f"{type(method).__name__} cannot select from one shard of {name} of {module}: expected "
        f"the whole tensor, got {_described(managed.shard(module))}. Compute the mask from "
        f"{managed.name}.full_tensor(), and give it to custom_from_mask."
    )


def check_selection(method: Any, pairs: Iterable[tuple[nn.Module, str]]) -> None:
    """``check_fsdp2`` for each (module, name)."""
    if not fsdp2.is_used():
        return
    for module, name in pairs:
        pruned = name + "_orig" in module._parameters
        managed = fsdp2.find_cached(module, name + "_orig" if pruned else name)
        if managed is not None:
            check_fsdp2(method, managed, module, name)


def explain(error: RuntimeError, method: Any, pairs: Iterable[tuple[nn.Module, str]]) -> None:
    """Raise ShardingError from an error of selection where a tensor is a DTensor.

    Which operators of a selection DTensor knows depends on placements and on the release of torch,
    so it is tried.
    """
    known = ShardingError, PeerError, torch.OutOfMemoryError
    if isinstance(error, known) or _has_its_mask(method):
        return
    if DTENSOR not in modules or isinstance(error, torch.distributed.DistError):
        return
    for module, name in pairs:
        parameters = module._parameters
        t = parameters.get(name + "_orig", parameters.get(name))
        if is_dtensor(t):
            raise ShardingError(
                f"{type(method).__name__} cannot select from {name} of {module}: expected a "
                f"tensor that is not a DTensor, got {_described(t)}. Compute the mask from the "
                f"full tensor (full_tensor()), and give it to custom_from_mask. In torch: {error}"
            ) from error


def remove(hook: Any, module: nn.Module) -> bool:
    """``hook.remove(module)`` where the parameter is a DTensor or FSDP2's; False where it is not.

    Upstream assigns ``data``, which for a DTensor changes nothing: its entries stay as they were.
    They are written in place, into the tensor that FSDP2 and optimizers hold.
    """
    name = getattr(hook, "_tensor_name", None)
    if name is None or DTENSOR not in modules:
        return False
    managed = fsdp2.find_cached(module, name + "_orig")
    orig: Any = module._parameters.get(name + "_orig")
    if managed is not None:
        orig = managed.shard(module)
    elif not is_dtensor(orig):
        return False
    pruned: Any = hook.apply_mask(module)
    pruned = pruned.redistribute(orig.device_mesh, orig.placements)
    with torch.no_grad():
        orig.to_local().copy_(pruned.to_local())
    if SHARDS in module.__dict__:
        from . import shard_masks

        shard_masks.forget(module, name)
    if hasattr(module, name):
        delattr(module, name)
    del module._parameters[name + "_orig"]
    del module._buffers[name + "_mask"]
    setattr(module, name, orig)
    if managed is not None:
        managed.rename(module, name)
    return True


def _has_its_mask(method: Any) -> bool:
    """Whether the mask does not depend on the tensor."""
    return isinstance(method, _HAVE_MASKS)


def _described(t: Any) -> str:
    return f"a DTensor with placements {tuple(t.placements)} on {t.device_mesh}"
