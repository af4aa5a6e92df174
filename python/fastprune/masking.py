"""What a module in the form of ``in_place`` holds, and what keeps its pruned entries at zero."""

from __future__ import annotations

import copy
import copyreg
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from . import fsdp2
from .dtensors import is_dtensor
from .lookup import IN_PLACE, is_in_place
from .ops import masked_muls_
from .packing import unpacked


class Entry(NamedTuple):
    """What a module knows, under ``IN_PLACE``, of a tensor of its that is pruned in place."""

    method: Any
    bits: bool
    persistent: bool
    #: Of the mask in the ordinary form.
    dtype: torch.dtype


class Entries(dict[str, Entry]):
    """What a module holds under ``IN_PLACE``: by name, what is pruned in place.

    A copy of the module, by ``deepcopy`` or from a pickle, is kept pruned too, as if it had been
    passed to ``in_place`` without an optimizer. This is the part of the copy that sees to it.
    """

    def __init__(self, module: nn.Module | None = None, entries: Any = ()) -> None:
        super().__init__(entries)
        self.module = _no_module if module is None else weakref.ref(module)

    def __deepcopy__(self, memo: dict[int, Any]) -> Entries:
        module = self.module()
        params = {} if module is None else copy.deepcopy(_parameters_in_place(module), memo)
        memo[id(self)] = twin = Entries(None, copy.deepcopy(dict(self), memo))
        twin._watch(memo.get(id(module)), params)
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        module = self.module()
        if module is None or not _is_pickled_first(module):
            return Entries, (), (None, {}, dict(self))
        return Entries, (), (module, _pickled_parameters(module), dict(self))

    def __setstate__(self, state: tuple[Any, dict[str, Any], dict[str, Entry]]) -> None:
        module, params, entries = state
        self.update(entries)
        self._watch(module, params)

    def _watch(self, module: nn.Module | None, params: dict[str, Any]) -> None:
        """Keep ``module`` pruned, a copy of which nothing is set yet, with these parameters."""
        if module is None or not _is_hashable(module):
            warnings.warn(
                "A module that is pruned in place was copied without what masks its gradients: "
                "call fastprune.in_place for the copy before it is trained.",
                stacklevel=3,
            )
            return
        self.module = weakref.ref(module)
        _install()
        with _lock:
            _modules.add(module)
            _copies.add(module)
        _mask_as_accumulated(module, params)


def _is_pickled_first(module: nn.Module) -> bool:
    """Whether pickle makes the module before what it holds, which may then refer to it."""
    kind = type(module)
    ways = kind.__reduce__, kind.__reduce_ex__
    return ways == (object.__reduce__, object.__reduce_ex__) and kind not in copyreg.dispatch_table


def _pickled_parameters(module: nn.Module) -> dict[str, Any]:
    """The parameters that are pruned in place, but for what a ``__getstate__`` leaves out."""
    state: Any = module.__getstate__() if hasattr(module, "__getstate__") else module.__dict__
    pickled = state.get("_parameters", {}) if isinstance(state, dict) else {}
    return {name: p for name, p in _parameters_in_place(module).items() if pickled.get(name) is p}


def _is_hashable(module: nn.Module) -> bool:
    """Whether a set takes it, though nothing is set that a ``__hash__`` of its own may read."""
    try:
        hash(module)
    except Exception:
        return False
    return True


def _no_module() -> None:
    return None


#: A module and the name of a tensor that is pruned in place.
Pair: TypeAlias = tuple[nn.Module, str]


def pairs_in(modules: Iterable[nn.Module]) -> list[Pair]:
    """The tensors of these modules that are pruned in place."""
    return [(module, name) for module in modules for name in module.__dict__.get(IN_PLACE, ())]


def _parameters_in_place(module: nn.Module) -> dict[str, Any]:
    """By name, the parameters of ``module`` that are pruned in place, as far as they are there."""
    found = {name: module._parameters.get(name) for name in module.__dict__[IN_PLACE]}
    return {name: param for name, param in found.items() if param is not None}


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
        module.__dict__[IN_PLACE] = Entries(module, entries)
    else:
        del module.__dict__[IN_PLACE]


def let_go(module: nn.Module) -> None:
    """Drop the hooks of tensors of ``module`` that are pruned in place no longer."""
    entries = module.__dict__.get(IN_PLACE, ())
    handles = _grad_hooks.get(module, {})
    for name in [name for name in handles if name not in entries]:
        handles.pop(name)[0].remove()
    hooks: Any = module._load_state_dict_post_hooks
    for key in [key for key, hook in hooks.items() if hook is zero_after_loading]:
        if not entries:
            del hooks[key]


# ---- what sets entries to zero ----


def zero_pruned(pairs: Iterable[Pair]) -> None:
    """Set the pruned entries of parameters to zero."""
    _apply_masks(pairs, lambda param: [param.detach()])


def mask_gradients_of(pairs: Iterable[Pair]) -> None:
    """Set the gradients of pruned entries to zero."""
    _apply_masks(pairs, lambda param: [] if param.grad is None else [param.grad])


def zero_state(optimizer: Optimizer, pairs: Iterable[Pair]) -> None:
    """Set to zero what the optimizer's state, such as momentum, holds for pruned entries."""

    def state_of(param: Tensor) -> list[Tensor]:
        state = optimizer.state.get(param, {})
        tensors = [v for key, v in state.items() if isinstance(v, Tensor) and key != "step"]
        return [value for value in tensors if value.shape == param.shape]

    _apply_masks(pairs, state_of)


def zero_everything(pairs: list[Pair]) -> None:
    """The parameters, their gradients and what optimizers hold, after more was pruned."""
    zero_pruned(pairs)
    mask_gradients_of(pairs)
    for optimizer in list(_zeroed):
        zero_state(optimizer, pairs)


def _apply_masks(pairs: Iterable[Pair], tensors_of: Callable[[Tensor], list[Tensor]]) -> None:
    """Set to zero what is pruned of the tensors that belong to each parameter, all at once."""
    ts: list[Tensor] = []
    masks: list[Tensor] = []
    with torch.no_grad():
        for module, name in pairs:
            param, mask = _parameter_and_mask(module, name)
            for t in tensors_of(param):
                ts.append(t.to_local() if is_dtensor(t) else t)  # type: ignore[attr-defined]
                masks.append(mask)
        masked_muls_(ts, masks)


def refuse_flattened(module: nn.Module, held: str, name: str) -> None:
    """Raise NotImplementedError where FSDP1 has ``module.<held>``, that is the tensor ``name``."""
    if fsdp2.is_flattened(module, held):
        raise NotImplementedError(
            f"expected {name} of {module}, to be pruned in place, to be a parameter of its own, "
            "got one that FullyShardedDataParallel has flattened: use fully_shard, after in_place"
        )


def _trained(module: nn.Module, name: str) -> tuple[Any, Any]:
    """The parameter that is trained, under FSDP2 a shard, and what FSDP2 knows of it or None."""
    param = module._parameters.get(name)
    if fsdp2.is_flattened(module, name):
        return param, None
    if param is None or module._buffers.get(name + "_mask") is None:
        raise RuntimeError(
            f"expected {name} of {module}, which is pruned in place, to be a parameter with the "
            f"buffer {name}_mask, got a module without one of them"
        )
    managed = fsdp2.find(module, name) if fsdp2.is_used() else None
    return (param, None) if managed is None else (managed.param.sharded_param, managed)


def _parameter_and_mask(module: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """The parameter that is trained, and its mask; under FSDP2 the mask of its shard."""
    refuse_flattened(module, name, name)
    param, managed = _trained(module, name)
    mask: Any = module._buffers[name + "_mask"]
    if managed is not None:
        mask = managed.shard_of_mask(mask_of(module, name), param).to_local()
    return param, mask


# ---- when it is done ----

#: Modules of this process that have been passed to in_place, and their copies.
_modules: weakref.WeakSet[nn.Module] = weakref.WeakSet()
#: Of these the copies that have not been passed to it, which may be anything by now.
_copies: weakref.WeakSet[nn.Module] = weakref.WeakSet()
#: Those whose gradients are masked by an optimizer's step, rather than as they are accumulated.
_stepped: weakref.WeakSet[nn.Module] = weakref.WeakSet()
#: Optimizers whose state is zero at pruned entries.
_zeroed: weakref.WeakSet[Optimizer] = weakref.WeakSet()
#: By module and name: what masks a gradient as it is accumulated, and the parameter.
_grad_hooks: weakref.WeakKeyDictionary[nn.Module, dict[str, Any]] = weakref.WeakKeyDictionary()
_lock = threading.RLock()  # a collection may run anything
_installed: list[Any] = []

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
        "NAdam",
        "RAdam",
        "RMSprop",
        "Rprop",
        "SGD",
        "SparseAdam",
    )
)


#: Classes that pass their ``step`` on to that of their ``optimizer`` and do no more. Known by name,
#: as others that hold an optimizer, such as Lookahead, write to the parameters themselves.
_WRAPPERS = frozenset(
    {
        "accelerate.optimizer.AcceleratedOptimizer",
        "lightning.fabric.wrappers._FabricOptimizer",
        "lightning.pytorch.core.optimizer.LightningOptimizer",
        "lightning_fabric.wrappers._FabricOptimizer",
        "pytorch_lightning.core.optimizer.LightningOptimizer",
    }
)


def unwrapped(optimizer: Any) -> Optimizer:
    """The optimizer whose steps run hooks, out of the wrappers of frameworks.

    Raises:
        TypeError: there is none.
    """
    found = optimizer
    while any(f"{c.__module__}.{c.__qualname__}" in _WRAPPERS for c in type(found).__mro__):
        found = found.optimizer
    if not isinstance(found, Optimizer) or not hasattr(found, "_optimizer_step_pre_hooks"):
        inside = "" if found is optimizer else f" in a {type(optimizer).__name__}"
        raise TypeError(f"expected a torch.optim.Optimizer, got {type(found).__name__}{inside}")
    return found


def watch(modules: list[nn.Module], optimizer: Optimizer | None) -> None:
    """Keep what is pruned in place of ``modules`` at zero, from now on."""
    _install()
    with _lock:
        _modules.update(modules)
        _copies.difference_update(modules)
    for module in modules:  # of a copy they may be those of the original
        module.__dict__[IN_PLACE] = Entries(module, module.__dict__[IN_PLACE])
    if optimizer is not None:
        _stepped.update(modules)
        zero_state(optimizer, pairs_in(modules))
        if optimizer not in _zeroed:
            _zeroed.add(optimizer)
            optimizer.register_load_state_dict_post_hook(_after_loading_state)
    for module in modules:
        hooks: Any = module._load_state_dict_post_hooks
        if zero_after_loading not in hooks.values():
            module.register_load_state_dict_post_hook(zero_after_loading)
        _mask_as_accumulated(module, _parameters_in_place(module))


def _install() -> None:
    """Have every optimizer's step mask first, if this process does not yet."""
    with _lock:
        if not _installed:
            _installed.append(register_optimizer_step_pre_hook(_before_step))
            _installed.append(register_optimizer_step_post_hook(_after_step))


def _held_by(optimizer: Optimizer) -> list[Pair]:
    """The tensors pruned in place that are parameters of the optimizer."""
    if not _modules:
        return []
    params = [p for group in optimizer.param_groups for p in group["params"]]
    held = {id(p) for p in params}
    with _lock:
        modules, copies = list(_modules), {id(module) for module in _copies}

    def is_held(module: nn.Module, name: str) -> bool:
        if id(module) in copies:
            own = id(module._parameters.get(name)) in held
            return own and module._buffers.get(name + "_mask") is not None
        param = _trained(module, name)[0]
        return fsdp2.is_part_of(module, params) if param is None else id(param) in held

    return [pair for pair in pairs_in(modules) if is_held(*pair)]


def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
    pairs = _held_by(optimizer)
    if not pairs:
        return None
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if not callable(closure):
        mask_gradients_of(pairs)
        return None

    def masked() -> Any:  # a closure computes the gradients inside of the step
        loss = closure()
        mask_gradients_of(pairs)
        return loss

    if "closure" in kwargs:
        return args, {**kwargs, "closure": masked}
    return (args[0], masked, *args[2:]), kwargs


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if optimizer not in _zeroed or type(optimizer) not in _KEEPS_ZEROS:
        zero_pruned(_held_by(optimizer))


def _after_loading_state(optimizer: Optimizer) -> None:
    zero_state(optimizer, _held_by(optimizer))


def zero_after_loading(module: nn.Module, incompatible_keys: Any) -> None:
    """A hook for after ``load_state_dict``."""
    if IN_PLACE in module.__dict__:
        zero_pruned(pairs_in([module]))
        if module in _modules:
            _mask_as_accumulated(module, _parameters_in_place(module))


def _mask_as_accumulated(module: nn.Module, params: dict[str, Any]) -> None:
    """Mask each gradient where no optimizer was given for it, and only there."""
    hooks = _grad_hooks.setdefault(module, {})
    for name, param in params.items():
        if not (param.is_floating_point() or param.is_complex()):  # it gets no gradient
            continue
        if name in hooks and (module in _stepped or hooks[name][1]() is not param):
            hooks.pop(name)[0].remove()
        if module not in _stepped and name not in hooks:
            frozen = not param.requires_grad
            param.requires_grad_(True)  # without which torch takes no hook
            handle = param.register_post_accumulate_grad_hook(_MaskGradient(module, name))
            param.requires_grad_(not frozen)
            hooks[name] = handle, weakref.ref(param)


class _MaskGradient:
    def __init__(self, module: nn.Module, name: str) -> None:
        self.module = weakref.ref(module)
        self.name = name

    def __call__(self, param: Tensor) -> None:
        module = self.module()
        if module is not None and is_in_place(module, self.name):
            mask_gradients_of([(module, self.name)])
