"""Every parameter of a model once, with what prunes it, in whatever form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from .dtensors import is_dtensor
from .lookup import IN_PLACE, SUSPENDED, methods_of, pruning_hooks
from .packing import unpacked
from .parametrization import find_masked, names_masked


@dataclass(frozen=True)
class Held:
    """A parameter as a module holds it."""

    #: As in ``model.named_parameters()`` before pruning.
    name: str
    #: The parameter, or those that a parametrization makes the tensor of.
    originals: tuple[Tensor, ...]
    #: What is multiplied with the mask; None where that would have to be computed.
    values: Tensor | None
    #: How it is pruned, None if it is not.
    form: str | None = None
    methods: tuple[Any, ...] = ()
    #: As it is kept, one bit an entry if ``bits``.
    mask: Tensor | None = None
    bits: bool = False
    product: Tensor | None = None

    def kept(self) -> Tensor:
        """The mask as bool, whole and in the shape of the tensor."""
        assert self.mask is not None
        if self.bits:
            assert self.values is not None
            return unpacked(self.mask, self.values.shape)
        kept = whole(self.mask.detach() != 0)
        return kept if self.values is None else kept.expand(self.values.shape)


def whole(t: Any) -> Tensor:
    """A tensor; of a DTensor all of it, which its processes have to ask for together."""
    result: Tensor = t.full_tensor() if is_dtensor(t) else t
    return result


def held_in(model: nn.Module) -> list[list[Held]]:
    """For each parameter, in the order of modules, all that hold it, those that prune it first."""
    groups: dict[int, list[Held]] = {}
    known: set[tuple[int, str]] = set()  # of a module that is there twice
    chains: set[int] = set()  # of parametrizations, whose originals their module has named
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        if id(module) in chains:
            continue
        for name, held in _held_by(module, prefix):
            chains.update(_chains_of(module, name) if held.form else ())
            if (id(module), name) not in known:
                known.add((id(module), name))
                groups.setdefault(id(held.originals[0]), []).append(held)
    return [sorted(group, key=lambda held: held.form is None) for group in groups.values()]


def _held_by(module: nn.Module, prefix: str) -> Iterator[tuple[str, Held]]:
    pruned = dict(_pruned_of(module, prefix))
    yield from pruned.items()  # pruning has put them behind the others
    for name, parameter in module._parameters.items():
        if parameter is None or name in pruned or name.removesuffix("_orig") in pruned:
            continue
        yield name, Held(prefix + name, (parameter,), parameter)


def _pruned_of(module: nn.Module, prefix: str) -> Iterator[tuple[str, Held]]:
    for form, hook in _hooks_of(module):
        name = hook._tensor_name
        mask, product = module._buffers.get(name + "_mask"), module.__dict__.get(name)
        originals, values = _originals_of(module, name + "_orig")
        if mask is None or not originals:
            continue  # taken out by a hook, or converted by torch.ao.quantization
        yield (
            name,
            Held(prefix + name, originals, values, form, _methods(hook), mask, False, product),
        )
    for name, entry in module.__dict__.get(IN_PLACE, {}).items():
        originals, values = _originals_of(module, name)
        methods, mask = _methods(entry.method), module._buffers[name + "_mask"]
        yield name, Held(prefix + name, originals, values, "in place", methods, mask, entry.bits)
    for name in names_masked(module):
        masked: Any = find_masked(module, name)
        originals, values = _originals_of(module, name)
        if module.parametrizations[name][0] is not masked:  # type: ignore[index]
            values = None
        methods = _methods(masked.method)
        yield (
            name,
            Held(prefix + name, originals, values, "parametrization", methods, masked.mask),
        )


def _hooks_of(module: nn.Module) -> Iterator[tuple[str, Any]]:
    if SUSPENDED in module.__dict__:
        for hook in module.__dict__[SUSPENDED].hooks.values():
            yield "cached", hook
    for _, hook in pruning_hooks(module):
        yield "hook", hook


def _originals_of(module: nn.Module, name: str) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """The parameters behind ``module.<name>``, and the one that it is, if it is one."""
    if parametrize.is_parametrized(module, name):
        chain: Any = module.parametrizations[name]  # type: ignore[index]
        found = tuple(t for t in chain._parameters.values() if t is not None)
        return found, found[0] if len(found) == 1 else None
    parameter = module._parameters.get(name)
    return ((), None) if parameter is None else ((parameter,), parameter)


def _chains_of(module: nn.Module, name: str) -> Iterator[int]:
    """The ids of the modules that hold the originals of a pruned tensor."""
    for own in (name, name + "_orig"):
        if parametrize.is_parametrized(module, own):
            yield id(module.parametrizations[own])  # type: ignore[index]


def _methods(hook: Any) -> tuple[Any, ...]:
    """The methods applied, oldest first."""
    return () if hook is None else methods_of(hook)
