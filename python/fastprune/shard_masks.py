"""Pruned parameters under FSDP2: the shard is masked before the all-gather.

FSDP2 gathers what ``fsdp_pre_all_gather`` of a shard returns, its hook for tensor subclasses; here
that is shard times mask. So ``<name>_orig`` is pruned already where a forward finds it whole: the
hook only passes it on, and no product is alive between forward and backward. The gradient is masked
when it arrives at the shard. Neither takes communication.

Where FSDP2 does not ask the shard, and for masks with other values than 0 and 1, the product is
made in the hook, with the mask gathered if it is sharded.
"""

from __future__ import annotations

import weakref
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from . import fsdp2
from .derived import derive, set_class
from .dtensors import is_dtensor
from .hook import applies_as_ours
from .lookup import SHARDS, pruning_hooks
from .ops import masked_mul, masked_muls_
from .reading import ReadsProducts

_PRE, _POST = "fsdp_pre_all_gather", "fsdp_post_all_gather"


class MasksShards(nn.Module):
    """Mixin of modules with such a parameter, whose product is made where it is read.

    In a forward it is an attribute, outside of it a DTensor.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Nothing of what the module's class does for classes that a user derives from it."""

    def __getattr__(self, name: str) -> Any:
        masked = self.__dict__.get(SHARDS, {}).get(name)
        return super().__getattr__(name) if masked is None else masked.read(self)


class ShardMask:
    """What masks a parameter, ``module.<name>_orig``, under FSDP2.

    Attributes:
        before_gather: whether the shard is masked, rather than what is gathered.
    """

    def __init__(self, module: nn.Module, name: str, managed: fsdp2.ManagedParameter) -> None:
        self.module = weakref.ref(module)
        self.name = name
        self.managed = managed
        self.before_gather = False
        #: Whether what was gathered last was masked, by the mask of now: a new one reshards.
        self.gathered = False
        self._grad_hook: Any = None
        self._param: Any = None  # that the hook is for

    # ---- where it is read ----

    def product(self, module: nn.Module) -> Any:
        """In a forward: the pruned tensor, whole where the parameter is, else a DTensor."""
        orig: Any = module._parameters[self.name + "_orig"]
        mask: Any = module._buffers[self.name + "_mask"]
        if not self.managed.is_unsharded(module):
            return self.mask_of_shard(mask, orig).to(orig.dtype) * orig
        if self.before_gather and self.gathered:
            return orig.view_as(orig)  # not the Parameter, which a module would register
        return self.managed.whole_mask(mask).to(orig.dtype) * orig

    def read(self, module: nn.Module) -> Any:
        """Outside of a forward: the same without communication."""
        whole = self.managed.is_unsharded(module)
        if not whole or (self.before_gather and self.gathered) or not self.managed.is_idle():
            return self.product(module)
        shard = self.managed.param.sharded_param
        mask: Any = module._buffers[self.name + "_mask"]
        return self.mask_of_shard(mask, shard).to(shard.dtype) * shard

    # ---- how it is installed ----

    def decide(self) -> None:
        """After the mask has changed: choose, and install the choice.

        All processes have to come here alike, as they do where they prune and load alike.
        """
        self.before_gather = self.managed.asks_shards() and self._is_binary()
        if self.before_gather:
            self.install()
        else:
            self.uninstall()

    def install(self) -> None:
        """Have FSDP2 ask for the masked shard, from the next all-gather on."""
        param = self.managed.param
        local = param._sharded_local_tensor
        if not self._is_installed():
            setattr(local, _PRE, _Masked(self))
            setattr(local, _POST, _as_gathered)
            param._init_extensions()
            self.gathered = False
        # Called where the shard is replaced by another tensor, as by ``to``.
        param.reset_sharded_param = self._reset_sharded_param
        if self._param is not param.sharded_param:
            self._drop_grad_hook()
            self._param = param.sharded_param
            self._grad_hook = _before_others(self._param, _MaskGradient(self))

    def _reset_sharded_param(self) -> None:
        param = self.managed.param
        type(param).reset_sharded_param(param)
        self.install()

    def uninstall(self) -> None:
        """Leave the shard to FSDP2 as it is."""
        param = self.managed.param
        if self._is_installed():
            delattr(param._sharded_local_tensor, _PRE)
            delattr(param._sharded_local_tensor, _POST)
        param.__dict__.pop("reset_sharded_param", None)
        self._drop_grad_hook()

    def _drop_grad_hook(self) -> None:
        if self._grad_hook is not None:
            self._grad_hook.remove()
        self._grad_hook = self._param = None

    def _is_installed(self) -> bool:
        asked = getattr(self.managed.param._sharded_local_tensor, _PRE, None)
        return isinstance(asked, _Masked) and asked.by() is self

    def _is_binary(self) -> bool:
        """Whether the mask has only 0 and 1: gradients that are accumulated are masked again."""
        mask: Any = self._module()._buffers[self.name + "_mask"]
        local = mask.to_local() if is_dtensor(mask) else mask
        if local.is_meta:  # it has no values yet; they are loaded
            return False
        binary = ((local == 0) | (local == 1)).all().to(torch.int32)
        if is_dtensor(mask):
            for dim in range(mask.device_mesh.ndim):
                group = mask.device_mesh.get_group(dim)
                dist.all_reduce(binary, op=dist.ReduceOp.MIN, group=group)
        return bool(binary)

    # ---- what FSDP2 and autograd call ----

    def masked_shard(self) -> Tensor:
        """What is gathered: the shard times its mask, in the dtype and size that FSDP2 gathers."""
        param = self.managed.param
        local = param.sharded_param.to_local().detach()
        product = masked_mul(local, self._local_mask())
        self.gathered = True
        dtype = param.param_dtype or product.dtype
        if product.shape == param.padded_sharded_param_size:
            return product.to(dtype)
        padded = product.new_zeros(param.padded_sharded_param_size, dtype=dtype)
        padded[tuple(map(slice, product.shape))] = product
        return padded

    def mask_gradient(self, param: Any) -> None:
        if param.grad is not None:
            grad = param.grad.to_local() if is_dtensor(param.grad) else param.grad
            masked_muls_([grad], [self._local_mask()])

    def _local_mask(self) -> Tensor:
        mask: Any = self._module()._buffers[self.name + "_mask"]
        local: Tensor = self.mask_of_shard(mask, self.managed.param.sharded_param).to_local()
        return local

    def mask_of_shard(self, mask: Any, shard: Any) -> Any:
        """The mask, placed as the shard."""
        if is_dtensor(mask) and (mask.device_mesh, mask.placements) == (
            shard.device_mesh,
            shard.placements,
        ):
            return mask
        return self.managed.shard_of_mask(mask, shard)

    def _module(self) -> nn.Module:
        module = self.module()
        if module is None:
            raise RuntimeError(f"the module that had the pruned {self.name} is gone")
        return module


class _Masked:
    """``fsdp_pre_all_gather`` of the local tensor of a shard. Weak: of a tensor that C++ refers to,
    too, the garbage collector of torch 2.9 does not see the attributes.
    """

    def __init__(self, by: ShardMask) -> None:
        self.by = weakref.ref(by)

    def __call__(
        self, mesh: Any, outer_size: Any, outer_stride: Any, module: Any, mp_policy: Any
    ) -> tuple[tuple[Tensor, ...], Any]:
        by = self.by()
        if by is None:
            raise RuntimeError("the module of a pruned parameter under fully_shard is gone")
        return (by.masked_shard(),), None

    def __reduce__(self) -> Any:
        return _what_is_pickled, ()  # with the parameter


class _MaskGradient:
    """A hook of the parameter, weak as the garbage collector does not see what such hooks hold."""

    def __init__(self, by: ShardMask) -> None:
        self.by = weakref.ref(by)

    def __call__(self, param: Any) -> None:
        by = self.by()
        if by is not None:
            by.mask_gradient(param)


def _what_is_pickled() -> Any:
    return _left_behind


def _left_behind(
    mesh: Any, outer_size: Any, outer_stride: Any, module: Any, mp_policy: Any
) -> NoReturn:
    raise RuntimeError(
        "expected a parameter of a module that fastprune prunes, got one that was pickled by "
        "itself; load a state dict instead"
    )


def _as_gathered(
    gathered: tuple[Tensor, ...], metadata: Any, dtype: torch.dtype, *, out: Any = None
) -> Any:
    """``fsdp_post_all_gather``: the parameter is a view of what was gathered.

    Returns:
        It, and the tensors beside it whose memory FSDP2 would have to free: none. Nothing if FSDP2
        has the view already, as ``out``.
    """
    return None if out is not None else (gathered[0], ())


def _before_others(param: Any, function: Any) -> Any:
    """Register a hook that runs before the others, such as an optimizer's step."""
    differentiable = param.is_floating_point() or param.is_complex()
    frozen = not param.requires_grad
    if frozen and not differentiable:
        return None
    param.requires_grad_(True)  # without which torch takes no hook
    handle = param.register_post_accumulate_grad_hook(function)
    param._post_accumulate_grad_hooks.move_to_end(handle.id, last=False)
    param.requires_grad_(not frozen)
    return handle


# ---- modules ----


def find(module: nn.Module, name: str) -> ShardMask | None:
    """What masks ``module.<name>``, if that is pruned and under FSDP2; from the first call on."""
    known: dict[str, ShardMask] = module.__dict__.get(SHARDS, {})
    if name in known:
        return known[name]
    managed = fsdp2.find_cached(module, name + "_orig")
    if managed is None or module._buffers.get(name + "_mask") is None:
        return None
    return _adopt(module, name, managed)


def after_pruning(module: nn.Module, name: str, managed: fsdp2.ManagedParameter) -> None:
    """When ``module.<name>`` has a new mask, the first or another."""
    if managed.name != name + "_orig":
        managed.rename(module, name + "_orig")
    if managed.is_unsharded(module):  # by the mask of before
        managed.shard(module)
    masked = module.__dict__.get(SHARDS, {}).get(name)
    if masked is None:
        _adopt(module, name, managed)
    else:
        masked.decide()
        module.__dict__.pop(name, None)


def _adopt(module: nn.Module, name: str, managed: fsdp2.ManagedParameter) -> ShardMask | None:
    """Mask the shard of ``module.<name>_orig`` from now on, if its hook applies masks as ours."""
    hook = next((h for _, h in pruning_hooks(module) if h._tensor_name == name), None)
    mask: Any = module._buffers[name + "_mask"]
    if hook is None or not applies_as_ours(hook):
        if is_dtensor(mask):  # its own ``apply_mask`` meets the whole parameter
            module._buffers[name + "_mask"] = managed.whole_mask(mask)
        return None
    masked = ShardMask(module, name, managed)
    if is_dtensor(mask):  # of a tensor-parallel one
        module._buffers[name + "_mask"] = masked.mask_of_shard(mask, managed.param.sharded_param)
    if SHARDS not in module.__dict__:
        object.__setattr__(module, SHARDS, {})
        module.register_load_state_dict_post_hook(_after_loading)
        module.register_forward_hook(_drop_products, always_call=True)
        if not isinstance(module, ReadsProducts):
            set_class(module, derive(MasksShards, type(module)))
    module.__dict__[SHARDS][name] = masked
    masked.decide()
    module.__dict__.pop(name, None)
    return masked


def forget(module: nn.Module, name: str) -> None:
    """Leave the shards of ``module.<name>_orig`` alone again."""
    masked = module.__dict__.get(SHARDS, {}).pop(name, None)
    if masked is None:
        return
    masked.uninstall()
    if not module.__dict__[SHARDS]:
        del module.__dict__[SHARDS]
        for hooks, function in (
            (module._load_state_dict_post_hooks, _after_loading),
            (module._forward_hooks, _drop_products),
        ):
            for key in [key for key, hook in hooks.items() if hook is function]:
                del hooks[key]
                module._forward_hooks_always_called.pop(key, None)
        if type(module).__bases__[0] is MasksShards:
            set_class(module, type(module).__bases__[1])


def _drop_products(module: nn.Module, inputs: Any, output: Any) -> None:
    """After a forward, when FSDP2 frees what it gathered."""
    for name in module.__dict__.get(SHARDS, ()):
        module.__dict__.pop(name, None)


def _after_loading(module: nn.Module, incompatible_keys: Any) -> None:
    for masked in module.__dict__.get(SHARDS, {}).values():
        masked.decide()
