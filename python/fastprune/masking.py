"""What a module in the form of ``in_place`` holds, and what keeps its pruned entries at zero."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from . import fsdp2
from .ops import masked_muls_
from .packing import unpacked
from .sharded import is_dtensor
from .slots import IN_PLACE


class Entry(NamedTuple):
    """What a module knows, under ``IN_PLACE``, of a tensor of its that is pruned in place."""

    method: Any
    bits: bool
    persistent: bool
    #: Of the mask in the ordinary form.
    dtype: torch.dtype


def mask_of(module: nn.Module, name: str) -> Tensor:
    """The bool mask of a tensor that is pruned in place."""
    mask: Any = module._buffers[name + "_mask"]
    if module.__dict__[IN_PLACE][name].bits:
        return unpacked(mask, module._parameters[name].shape)  # type: ignore[union-attr]
    result: Tensor = mask
    return result


def forget(module: nn.Module, name: str) -> None:
    """Keep ``module.<name>`` pruned no longer; it stays as it is."""
    del module._buffers[name + "_mask"]
    module._non_persistent_buffers_set.discard(name + "_mask")
    entries = {key: value for key, value in module.__dict__[IN_PLACE].items() if key != name}
    if entries:
        module.__dict__[IN_PLACE] = entries
    else:
        del module.__dict__[IN_PLACE]


def let_go(module: nn.Module) -> None:
    """Drop the hooks of tensors of ``module`` that are pruned in place no longer."""
    entries = module.__dict__.get(IN_PLACE, ())
    handles = _grad_hooks.get(module, {})
    for name in [name for name in handles if name not in entries]:
        handles.pop(name).remove()
    hooks: Any = module._load_state_dict_post_hooks
    for key in [key for key, hook in hooks.items() if hook is zero_after_loading]:
        if not entries:
            del hooks[key]


def zero_pruned(modules: Iterable[nn.Module]) -> None:
    """Set the pruned entries of parameters to zero."""
    _apply_masks(modules, lambda param: [param.detach()])


#: By module and name: what masks a gradient as it is accumulated.
_grad_hooks: weakref.WeakKeyDictionary[nn.Module, dict[str, Any]] = weakref.WeakKeyDictionary()
_maskers: weakref.WeakKeyDictionary[Optimizer, Masker] = weakref.WeakKeyDictionary()


#: Optimizers that leave an entry at zero whose gradient and state are zero. Others, such as Muon,
#: mix entries: what they change is set to zero after the step.
_KEEPS_ZEROS = frozenset(
    getattr(torch.optim, name, None)
    for name in (
        "ASGD",
        "Adadelta",
        "Adafactor",
        "Adagrad",
        "Adam",
        "AdamW",
        "Adamax",
        "LBFGS",
        "NAdam",
        "RAdam",
        "RMSprop",
        "Rprop",
        "SGD",
        "SparseAdam",
    )
)


class Masker:
    """The hook of an optimizer that masks gradients before a step."""

    def __init__(self) -> None:
        self.modules: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    @staticmethod
    def of(optimizer: Optimizer) -> Masker:
        masker = _maskers.get(optimizer)
        if masker is None:
            _maskers[optimizer] = masker = Masker()
            optimizer.register_step_pre_hook(masker)
            if type(optimizer) not in _KEEPS_ZEROS:
                optimizer.register_step_post_hook(masker.after)
        return masker

    def add(self, modules: list[nn.Module]) -> None:
        self.modules.update(modules)

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            mask_gradients_of(self.modules)
            return None
        masked = self._around(closure)  # which computes the gradients inside of the step
        if "closure" in kwargs:
            return args, {**kwargs, "closure": masked}
        return (args[0], masked, *args[2:]), kwargs

    def after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        zero_pruned(self.modules)

    def _around(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            loss = closure()
            mask_gradients_of(self.modules)
            return loss

        return run


def mask_gradients_of(modules: Iterable[nn.Module]) -> None:
    """Set the gradients of pruned entries to zero."""
    _apply_masks(modules, lambda param: [] if param.grad is None else [param.grad])


def zero_state(optimizer: Optimizer, modules: Iterable[nn.Module]) -> None:
    """Set to zero what the optimizer's state, such as momentum, holds for pruned entries."""

    def state_of(param: Tensor) -> list[Tensor]:
        values = optimizer.state.get(param, {}).values()
        tensors = [value for value in values if isinstance(value, Tensor) and value.dim() > 0]
        return [value for value in tensors if value.shape == param.shape]

    _apply_masks(modules, state_of)


def _apply_masks(
    modules: Iterable[nn.Module], tensors_of: Callable[[Tensor], list[Tensor]]
) -> None:
    """Set to zero what is pruned of the tensors that belong to each parameter, all at once."""
    ts: list[Tensor] = []
    masks: list[Tensor] = []
    with torch.no_grad():
        for module in modules:
            for name in module.__dict__.get(IN_PLACE, ()):
                param, mask = _parameter_and_mask(module, name)
                for t in tensors_of(param):
                    ts.append(t.to_local() if is_dtensor(t) else t)  # type: ignore[attr-defined]
                    masks.append(mask)
        masked_muls_(ts, masks)


def _parameter_and_mask(module: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """The parameter that is trained, and its mask; under FSDP2 the mask of its shard."""
    param: Any = module._parameters[name]
    mask: Any = module._buffers[name + "_mask"]
    managed = fsdp2.find(module, name) if fsdp2.is_used() else None
    if managed is None:
        return param, mask
    shard = managed.param.sharded_param
    part: Any = managed.shard_of_mask(mask_of(module, name), shard)
    return shard, part.to_local()


def zero_everything(module: nn.Module) -> None:
    """The parameter, its gradient and what optimizers hold, after more was pruned."""
    zero_pruned([module])
    mask_gradients_of([module])
    for optimizer, masker in list(_maskers.items()):
        if module in masker.modules:
            zero_state(optimizer, [module])


def mask_as_accumulated(module: nn.Module) -> None:
    """Mask each gradient where no optimizer does it, and only there."""
    has_optimizer = any(module in masker.modules for masker in _maskers.values())
    hooks = _grad_hooks.setdefault(module, {})
    for name in module.__dict__[IN_PLACE]:
        if has_optimizer and name in hooks:
            hooks.pop(name).remove()
        elif not has_optimizer and name not in hooks:
            param: Any = module._parameters[name]
            if param.requires_grad:
                hook = _MaskGradient(module, name)
                hooks[name] = param.register_post_accumulate_grad_hook(hook)


class _MaskGradient:
    def __init__(self, module: nn.Module, name: str) -> None:
        self.module = weakref.ref(module)
        self.name = name

    def __call__(self, param: Tensor) -> None:
        module = self.module()
        if module is not None and self.name in module.__dict__.get(IN_PLACE, ()):
            with torch.no_grad():
                masked_muls_([param.grad], [module._buffers[self.name + "_mask"]])  # type: ignore[list-item]


def zero_after_loading(module: nn.Module, incompatible_keys: Any) -> None:
    if IN_PLACE in module.__dict__:
        zero_pruned([module])
