"""Parameters that are in several modules: tied weights.

Each module keeps a mask of its own, as a buffer. Where another module has pruned the Parameter
before, the new mask is built upon that one's, so that masks of one Parameter do not contradict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

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
            if holder._parameters.get(held + "_orig") is original:
                mask = getattr(holder, held + "_mask", None)
                if mask is not None and not (holder is module and held == name):
                    oldest = mask
        home = home.older
    return None if oldest is None else oldest.detach().expand(original.shape).clone()


def by_parameter(pairs: list[tuple[nn.Module, str]]) -> list[list[int]]:
    """For each Parameter, the indices of its pairs, of each pair the first."""
    groups: dict[Any, dict[Any, int]] = {}
    for i, (module, name) in enumerate(pairs):
        parameters, pair = module._parameters, (id(module), name)
        original = parameters.get(name + "_orig", parameters.get(name))
        key = pair if original is None else id(original)
        groups.setdefault(key, {}).setdefault(pair, i)
    return [list(group.values()) for group in groups.values()]
