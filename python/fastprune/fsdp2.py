"""Parameters under FSDP2 (``torch.distributed.fsdp.fully_shard``).

FSDP2 knows a parameter by its module and name, and writes it there: the shard, a DTensor, or, for
forward and backward, the whole tensor. Buffers it leaves alone.

There is no public way from a module to what FSDP2 knows of its parameters. The private names in
this file are those of torch 2.13, or of releases before where it says so; where one is missing, an
error says which.
"""

from __future__ import annotations

import operator
import sys
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

#: What FSDP sets to True in each module that it manages, for the compiler.
MANAGED = "_is_fsdp_managed_module"
_STATES = "torch.distributed._composable_state"


class ShardingError(NotImplementedError):
    """What is asked for cannot be done with a tensor that is spread over processes."""


class ManagedParameter:
    """What FSDP2 knows of a parameter: its FSDPParam, and the group it is communicated with."""

    def __init__(self, group: Any, param: Any, name: str) -> None:
        self.group = group
        self.param = param
        self.name = name
        self.mesh = param.mesh_info
        self.dim = param.fsdp_placement.dim
        self.is_idle()

    def is_idle(self) -> bool:
        """Whether no forward or backward uses it."""
        idle: bool = self.group._training_state.name == "IDLE"
        return idle

    def is_unsharded(self, module: nn.Module) -> bool:
        """Whether the module holds the whole tensor (under tensor parallelism, that part of it)."""
        unsharded = getattr(self.param, "_unsharded_param", None)
        return unsharded is not None and module._parameters.get(self.name) is unsharded

    def shard(self, module: nn.Module) -> Any:
        """The shard that is trained, after the module has got it back.

        Raises:
            RuntimeError: inside of the module's forward or backward.
        """
        if module._parameters.get(self.name) is not self.param.sharded_param:
            self.check_idle(module)
            self.group.reshard()
        return self.param.sharded_param

    def check_idle(self, module: nn.Module) -> None:
        """Raise RuntimeError inside of the module's forward or backward."""
        if not self.is_idle():
            raise RuntimeError(
                f"expected {self.name} of {module} to be idle, got "
                f"{self.group._training_state.name}: it is in use. Prune and remove outside of "
                "forward and backward."
            )

    def shard_of_mask(self, mask: Any, shard: Any) -> Tensor:
        """The part of a whole mask that belongs to ``shard``, as a DTensor placed like it."""
        from torch.distributed.tensor import DTensor

        from .sharded import placed

        spec = self._unsharded_spec()
        mask = mask.expand(shard.shape)
        if spec is not None:
            mask = placed(mask, spec.mesh, spec.placements).to_local()  # type: ignore[attr-defined]
        rank = getattr(self.mesh, "shard_mesh_rank", 0)
        parts = mask.chunk(getattr(self.mesh, "shard_mesh_size", 1), self.dim)
        part = parts[rank] if rank < len(parts) else mask.narrow(self.dim, 0, 0)
        return DTensor.from_local(
            part.to(shard.to_local().device),
            shard.device_mesh,
            shard.placements,
            run_check=False,
            shape=shard.shape,
            stride=shard.stride(),
        )

    def whole_mask(self, mask: Any) -> Any:
        """A mask as the parameter is where it is whole; one that is sharded is gathered."""
        from .sharded import placed

        spec = self._unsharded_spec()
        if spec is None:
            return mask.full_tensor() if hasattr(mask, "full_tensor") else mask
        if getattr(mask, "device_mesh", None) == spec.mesh:
            return mask
        whole = mask.full_tensor() if hasattr(mask, "full_tensor") else mask
        return placed(whole, spec.mesh, spec.placements)

    def _unsharded_spec(self) -> Any:
        """Under tensor parallelism: how the tensor is placed that FSDP2 shards."""
        spec = getattr(self.param, "_unsharded_dtensor_spec", None)
        return spec or getattr(self.param, "_tp_spec", None)  # its name in torch 2.9

    def asks_shards(self) -> bool:
        """Whether FSDP2 asks the shard what to gather, for this parameter of one module only."""
        param, group = self.param, self.group
        other = getattr(param._sharded_local_tensor, "fsdp_pre_all_gather", None)
        return (
            not param._module_info.shared_modules
            and (other is None or type(other).__module__.startswith(__package__))
            and not (param.offload_to_cpu and param.device.type != "cpu")  # asks a copy of it
            and not group._use_post_forward_mesh  # gathers from a part of the processes
        )

    def rename(self, module: nn.Module, name: str) -> None:
        """Note that ``module`` holds the parameter by another name from now on."""
        info = self.param._module_info
        if info.module is module and info.param_name == self.name:
            info.param_name = name
        shared = zip(info.shared_modules, info.shared_param_names, strict=True)
        info.shared_param_names[:] = [
            name if holder is module and old == self.name else old for holder, old in shared
        ]
        self.name = name
        _managed_of.pop(module, None)


def is_flattened(module: nn.Module, name: str) -> bool:
    """Whether FSDP1 (``FullyShardedDataParallel``) has made the parameter a part of a flat one.

    With ``use_orig_params=True`` the module keeps a parameter, which is a marked piece of the flat
    one, and otherwise a plain tensor.
    """
    param = module._parameters.get(name)
    if param is None:
        return isinstance(module.__dict__.get(name), Tensor)
    return bool(getattr(param, "_fsdp_flattened", False))


def is_part_of(module: nn.Module, params: Iterable[Any]) -> bool:
    """Whether one of these parameters is a flat one of FSDP1 with tensors of the module."""
    infos = (info for param in params for info in getattr(param, "_param_infos", ()))
    return any(info.module is module for info in infos)


def is_used() -> bool:
    """Whether any module may be under FSDP2."""
    states = sys.modules.get(_STATES)
    return states is not None and bool(getattr(states, "_module_state_mapping", True))


def find(module: nn.Module, name: str) -> ManagedParameter | None:
    """What FSDP2 knows of ``module.<name>``, or None if it does not manage that.

    Raises:
        ShardingError: FSDP2 manages the module, but keeps its parameters in another way.
    """
    states = sys.modules.get(_STATES)
    if states is None:
        return None
    any_group = False
    try:
        for reference in states._module_state_mapping.values():
            for group in _groups(reference()):
                any_group = True
                for param in group.fsdp_params:
                    if _holds(param._module_info, module, name):
                        return _managed(group, param, module, name)
    except AttributeError as error:
        if is_managed(module):
            _refuse(module, name, str(error))
        return None
    if not any_group and is_managed(module) and hasattr(module._parameters.get(name), "placements"):
        _refuse(module, name, "there is no parameter group")
    return None


#: By module and name: weak references to the group and the parameter that FSDP2 knows it by; or
#: where it knows nothing, the states of then.
_managed_of: weakref.WeakKeyDictionary[nn.Module, dict[str, Any]] = weakref.WeakKeyDictionary()


def is_managed(module: nn.Module) -> bool:
    """Whether FSDP, of either generation, has told the compiler that it manages the module."""
    return MANAGED in module.__dict__


def find_cached(module: nn.Module, name: str) -> ManagedParameter | None:
    """``find``, which searches only once, as long as its answer is right."""
    if not is_managed(module) or not is_used():
        return None
    known = _managed_of.setdefault(module, {})
    last = known.get(name)
    if isinstance(last, tuple):
        group, param = last[0](), last[1]()
        if param is not None and _holds(param._module_info, module, name):
            return _managed(group, param, module, name)
    elif last is not None and _are_the_states(last):
        return None
    found = find(module, name)
    if found is None:
        known[name] = _states_of_now()
    else:
        known[name] = weakref.ref(found.group), weakref.ref(found.param)
    return found


def _states_of_now() -> list[Any]:
    """Weak references to what FSDP2 knows, which are others once more is under it."""
    return list(getattr(sys.modules[_STATES], "_module_state_mapping", {}).values())


def _are_the_states(then: list[Any]) -> bool:
    now = _states_of_now()
    return len(now) == len(then) and all(map(operator.is_, now, then))


def shards(mask: Tensor, module: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """The shards of a whole mask and of ``module.<name>_orig``; both as they are if not FSDP2's."""
    param = find(module, name + "_orig")
    if param is None or param.is_unsharded(module):
        orig: Tensor = getattr(module, name + "_orig")
        return mask, orig
    shard = param.shard(module)
    return param.shard_of_mask(mask, shard), shard


def _groups(state: Any) -> Iterator[Any]:
    """The parameter groups of a module's state; other features of torch have states, too."""
    if hasattr(state, "_fsdp_param_groups"):
        yield from state._fsdp_param_groups
    elif getattr(state, "_fsdp_param_group", None) is not None:  # one only, in torch 2.9
        yield state._fsdp_param_group


def _managed(group: Any, param: Any, module: nn.Module, name: str) -> ManagedParameter:
    try:
        return ManagedParameter(group, param, name)
    except AttributeError as error:
        _refuse(module, name, str(error))


def _holds(info: Any, module: nn.Module, name: str) -> bool:
    if info.module is module and info.param_name == name:
        return True
    shared = zip(info.shared_modules, info.shared_param_names, strict=True)
    return any(holder is module and old == name for holder, old in shared)


def _refuse(module: nn.Module, name: str, found: str) -> NoReturn:
    raise ShardingError(
        f"{name} of {module} is under fully_shard, and fastprune does not know how torch "
        f"{torch.__version__} keeps such a parameter: expected the private fields of torch "
        f"2.13, got: {found}."
    )
