"""After a state dict is loaded: pruned tensors made anew, for modules that were attached to one."""

from __future__ import annotations

from typing import Any

from torch import nn

from .lookup import all_pruning_hooks


def refresh_products(module: nn.Module, incompatible_keys: Any) -> None:
    """Make the pruned tensors of the module anew.

    A forward does so too, but not that of ``out_proj`` in MultiheadAttention, which is never
    called.
    """
    for hook in all_pruning_hooks(module):
        hook(module, ())


def start_refreshing(module: nn.Module) -> None:
    """Refresh the products of ``module`` after each load, from now on."""
    if refresh_products not in _hooks(module).values():
        module.register_load_state_dict_post_hook(refresh_products)


def stop_refreshing(module: nn.Module, but: Any) -> None:
    """Do so no longer, if no hook but ``but`` prunes it."""
    hooks = _hooks(module)
    if hooks and all(hook is but for hook in all_pruning_hooks(module)):
        for key in [key for key, hook in hooks.items() if hook is refresh_products]:
            del hooks[key]


def _hooks(module: nn.Module) -> dict[int, Any]:
    hooks: dict[int, Any] = module.__dict__.get("_load_state_dict_post_hooks", {})
    return hooks
