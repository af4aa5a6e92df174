"""Parameters that are in several modules: tied weights.

Each module keeps a mask of its own, as a buffer. Where another module has pruned the Parameter
before, the new mask is built upon that one's, so that masks of one Parameter do not contradict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .lookup import is_in_place

if TYPE_CHECKING:
    from .copying import Home

#: By the id of a Parameter: the newest hook that prunes it, which knows the next older one. The id
#: may be that of another object by now, so what is found is checked.
holders: dict[int, Home] = {}


def tied_mask(original: Tensor, module: nn.Module, name: str) -> Tensor | None:
    """A copy of the oldest mask with which another tensor than ``module.<name>`` prunes it."""
    oldest: Tensor | None = None
    home = holders.get(id(original))
    while home is not None:
        method: Any = home()
        holder = home.module()
        if method is not None and holder is not None:
            held = method._tensor_name
            mask = _mask_held(holder, held, original)
            if mask is not None and not (holder is module and held == name):
                oldest = mask
        home = home.older
    return None if oldest is None else oldest.detach().expand(original.shape).clone()


def _mask_held(holder: nn.Module, name: str, original: Tensor) -> Tensor | None:
    """The mask with which ``holder.<name>`` prunes this very Parameter, in either form."""
    if is_in_place(holder, name) and holder._parameters.get(name) is original:
        from .masking import mask_of  # which comes later

        return mask_of(holder, name).to(original.dtype)
    if holder._parameters.get(name + "_orig") is not original:
        return None
    mask: Tensor | None = getattr(holder, name + "_mask", None)
    return mask


def by_parameter(pairs: list[tuple[nn.Module, str]]) -> list[list[int]]:
    """For each Parameter, the indices of its pairs, of each pair the first."""
    groups: dict[Any, dict[Any, int]] = {}
    for i, (module, name) in enumerate(pairs):
        parameters, pair = module._parameters, (id(module), name)
        original = parameters.get(name + "_orig", parameters.get(name))
        key = pair if original is None else id(original)
        groups.setdefault(key, {}).setdefault(pair, i)
    return [list(group.values()) for group in groups.values()]
