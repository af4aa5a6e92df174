"""BasePruningMethod and PruningContainer: how a mask comes to a module and stays there.

Both inherit from their counterparts in torch.nn.utils.prune, so that code that knows only those
(``remove``, ``is_pruned``, Lightning's callback) works on ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn
from torch.compiler import is_compiling

from . import _C
from .homes import home_of, homes, settle
from .native import is_native
from .slots import has_own_setattr, original_and_mask, store


class transaction:
    """Leave the modules exactly as they were if anything is raised inside, even an interrupt."""

    __slots__ = ("before",)

    def __init__(self, *modules: nn.Module) -> None:
        #: Each container that pruning changes, with a copy of its content.
        self.before: list[tuple[Any, Any]] = []
        for module in modules:
            hooks = module._forward_pre_hooks
            for holder in (
                module._parameters,
                module._buffers,
                module._non_persistent_buffers_set,
                hooks,
                module._forward_pre_hooks_with_kwargs,
                module.__dict__,
            ):
                self.before.append((holder, holder.copy() if holder else ()))
            for hook in hooks.values():
                if isinstance(hook, upstream.BasePruningMethod):
                    self.before.append((hook.__dict__, hook.__dict__.copy()))
            if has_own_setattr(module):  # an RNN puts the product into a list, too
                lists = [value for value in module.__dict__.values() if type(value) is list]
                self.before += [(value, value.copy()) for value in lists]

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None:
            for holder, content in self.before:
                if type(holder) is list:
                    holder[:] = content
                else:
                    holder.clear()
                    holder.update(content)


class BasePruningMethod(upstream.BasePruningMethod):
    """Base class of pruning methods; see :class:`torch.nn.utils.prune.BasePruningMethod`.

    Subclasses define ``compute_mask(t, default_mask)`` and ``PRUNING_TYPE`` as they do upstream.
    """

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        """Forward pre-hook: refresh ``module.<name>`` from ``<name>_orig`` and ``<name>_mask``."""
        if is_compiling():  # what upstream does, and nothing else that dynamo would guard on
            setattr(module, self._tensor_name, self.apply_mask(module))
            return
        if id(self) not in homes and isinstance(module, nn.Module):  # copied, or read from a file
            settle(self, module)
        store(module, self._tensor_name, self.apply_mask(module))

    def apply_mask(self, module: nn.Module) -> Tensor:
        """``<name>_orig`` times ``<name>_mask``, with the gradient of the former.

        Raises:
            AssertionError: the method has not been applied to a tensor.
        """
        if not is_compiling():
            name = getattr(self, "_tensor_name", None)
            if name is None:
                raise AssertionError(f"Module {module} has to be pruned")
            product = _C.product_if_plain(*original_and_mask(module, name))
            if product is not None:
                return product
        mask: Tensor = getattr(module, self._tensor_name + "_mask")
        orig: Tensor = getattr(module, self._tensor_name + "_orig")
        pruned_tensor = mask.to(dtype=orig.dtype) * orig  # fx names the node after this variable
        return pruned_tensor

    @classmethod
    def apply(  # type: ignore[override]
        cls,
        module: nn.Module,
        name: str,
        *args: Any,
        importance_scores: Tensor | None = None,
        **kwargs: Any,
    ) -> BasePruningMethod:
        """Prune ``module.<name>`` and register the hook that keeps it pruned.

        A transaction: if anything fails, the module is as it was, an earlier hook included.

        Args:
            module: holds the tensor to prune.
            name: of the parameter, on which earlier pruning is built upon.
            args: passed to the constructor.
            importance_scores: rank these instead of the parameter; of its shape.
            kwargs: passed to the constructor.

        Returns:
            The method, or the container that holds it and its predecessors.

        Raises:
            AttributeError: the module has nothing of that name.
            TypeError: what it has is no parameter.
            AssertionError: the scores' shape differs, or two hooks prune the same tensor.
            RuntimeError: the scores are on another device.
        """
        method = cls(*args, **kwargs)
        with transaction(module):
            return method._attach(module, name, importance_scores)

    def _attach(
        self,
        module: nn.Module,
        name: str,
        importance_scores: Tensor | None = None,
        mask: Tensor | None = None,
        product: Tensor | None = None,
    ) -> BasePruningMethod:
        """What ``apply`` does with a new method, inside a transaction.

        ``mask`` is the new mask where the caller has it already, ``product`` the pruned tensor.
        """
        old = _find_hook(module, name)
        t = orig = _check_prunable(module, name, importance_scores, pruned=old is not None)
        scores = orig if importance_scores is None else importance_scores
        self._tensor_name = name
        method: Any = self
        ours = True
        default_mask = None
        if old is None:
            module.register_parameter(name + "_orig", orig)  # type: ignore[arg-type]
            del module._parameters[name]
            if mask is None:
                default_mask = _ones(self, orig, scores)
        else:
            key, hook = old
            del module._forward_pre_hooks[key]
            method = _stack(hook, self)
            # Not a container that derives from upstream's; isinstance of an ABC is slow.
            ours = type(method) is PruningContainer or isinstance(method, PruningContainer)
            t, default_mask = original_and_mask(module, name)
            default_mask = default_mask.detach()
            if not ours or not is_native(self) or not _C.is_plain(default_mask, scores):
                # upstream's way writes into the mask it is given
                default_mask = default_mask.clone(memory_format=torch.contiguous_format)
        if mask is None:
            if ours:
                mask, product = method._mask_and_product(scores, default_mask, t)
            else:
                mask = method.compute_mask(scores, default_mask=default_mask)
        module.register_buffer(name + "_mask", mask)
        if product is None or not _applies_as_ours(method):
            product = method.apply_mask(module)
        store(module, name, product, was_parameter=old is None)
        module.register_forward_pre_hook(method)
        settle(method, module)
        return method

    def prune(
        self,
        t: Tensor,
        default_mask: Tensor | None = None,
        importance_scores: Tensor | None = None,
    ) -> Tensor:
        """``t`` times its mask, without a module; ``default_mask`` defaults to ones.

        Raises:
            AssertionError: ``importance_scores`` has another shape than ``t``.
        """
        scores = t if importance_scores is None else importance_scores
        if scores.shape != t.shape:
            raise AssertionError(
                "importance_scores should have the same shape as tensor t, "
                f"got {scores.shape} vs {t.shape}"
            )
        if default_mask is None:
            default_mask = _ones(self, t, scores)
        elif default_mask.dtype != t.dtype:  # the product may have a dtype of neither
            return t * self.compute_mask(scores, default_mask=default_mask)
        mask, product = self._mask_and_product(scores, default_mask, t)
        return t * mask if product is None else product

    def _mask_and_product(
        self, scores: Tensor, default_mask: Any, t: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """``compute_mask``, and ``masked_mul(t, mask)`` where one operator gives both."""
        return self.compute_mask(scores, default_mask=default_mask, **options), None

    def _masks_and_products(
        self, scores: Sequence[Tensor], masks: Sequence[Tensor | None], ts: Sequence[Tensor]
    ) -> tuple[list[Tensor], Sequence[Tensor | None]]:
        """``compute_masks``, the masks of many tensors by one budget, and their products with
        ``ts`` where one operator gives both.
        """
        method: Any = self
        return method.compute_masks(scores, masks), [None] * len(ts)

    def __deepcopy__(self, memo: dict[int, Any]) -> BasePruningMethod:
        # A pruned tensor is a product, which torch refuses to copy while it has a gradient. A
        # module copies its hooks first, so a detached copy left in the memo is what the module
        # gets; its first forward makes the product anew.
        module = home_of(self)
        pruned = None if module is None else module.__dict__.get(self._tensor_name)
        if isinstance(pruned, Tensor) and not pruned.is_leaf:
            memo.setdefault(id(pruned), pruned.detach().clone())
        return _default_deepcopy(self, memo)


class PruningContainer(upstream.PruningContainer, BasePruningMethod):  # type: ignore[misc]
    """The methods applied to one tensor, in order.

    See :class:`torch.nn.utils.prune.PruningContainer`.
    The last one decides on what the earlier ones left active.
    """

    def __init__(self, *methods: upstream.BasePruningMethod) -> None:
        self._pruning_methods: tuple[upstream.BasePruningMethod, ...] = ()
        for method in methods:
            self.add_pruning_method(method)

    def add_pruning_method(self, method: upstream.BasePruningMethod | None) -> None:
        """Append a method.

        Raises:
            TypeError: it is no pruning method.
            ValueError: it prunes a tensor of another name.
        """
        if isinstance(method, upstream.BasePruningMethod) and not hasattr(self, "_tensor_name"):
            self._tensor_name = method._tensor_name
        super().add_pruning_method(method)

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:  # type: ignore[override]
        """The mask of the last method on the active part of ``t``; the rest of ``default_mask``
        passes through. The result has the dtype of ``t``.

        Active are, by the method's ``PRUNING_TYPE``: entries whose mask is 1 ('unstructured'),
        channels along ``method.dim`` with a mask entry that is not 0 ('structured'), or everything
        ('global').
        """
        method: Any = self._pruning_methods[-1]
        if not is_native(method) or not _C.is_plain(default_mask, t):
            result: Tensor = super().compute_mask(t, default_mask)
            return result
        mask = method.compute_mask(t, default_mask=default_mask, active_only=True)
        return mask.to(t.dtype)

    def _mask_and_product(
        self, scores: Tensor, default_mask: Any, t: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        method: Any = self._pruning_methods[-1]
        own = type(self).compute_mask is PruningContainer.compute_mask
        if not own or not is_native(method) or default_mask.dtype != scores.dtype:
            return super()._mask_and_product(scores, default_mask, t)
        if not _C.is_plain(default_mask, scores, t):
            return super()._mask_and_product(scores, default_mask, t)
        mask, product = method._mask_and_product(scores, default_mask, t, active_only=True)
        return mask.to(scores.dtype), product


def _default_deepcopy(method: BasePruningMethod, memo: dict[int, Any]) -> BasePruningMethod:
    """What ``copy.deepcopy`` does for a class without ``__deepcopy__``."""
    reduced: Any = method.__reduce_ex__(4)
    function, arguments, state = (*reduced, None)[:3]
    copy: Any = function(*deepcopy(arguments, memo))
    memo[id(method)] = copy
    if state is None:
        return copy  # type: ignore[no-any-return]
    state = deepcopy(state, memo)
    if hasattr(copy, "__setstate__"):
        copy.__setstate__(state)
        return copy  # type: ignore[no-any-return]
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    copy.__dict__.update(attributes or {})
    for name, value in (slots or {}).items():
        setattr(copy, name, value)
    return copy  # type: ignore[no-any-return]


def _ones(method: BasePruningMethod, t: Tensor, scores: Tensor) -> Tensor | None:
    """A mask of ones like ``t``; None stands for it where the native operators will be taken."""
    native = is_native(method)
    if scores is t:
        native = native and _C.is_plain(None, t)
    else:
        native = native and scores.dtype == t.dtype and _C.is_plain(None, t, scores)
    return None if native else torch.ones_like(t)


def _applies_as_ours(method: upstream.BasePruningMethod) -> bool:
    """Whether ``apply_mask`` is that of this file, so that it need not be asked for the product."""
    own = type(method).apply_mask is BasePruningMethod.apply_mask
    return own and "apply_mask" not in method.__dict__


def _stack(
    hook: upstream.BasePruningMethod, method: BasePruningMethod
) -> upstream.PruningContainer:
    """The hook as a container with one more method. Only upstream's own is replaced by ours."""
    if isinstance(hook, upstream.PruningContainer) and type(hook) is not upstream.PruningContainer:
        hook.add_pruning_method(method)
        return hook
    methods = hook if isinstance(hook, upstream.PruningContainer) else (hook,)
    return PruningContainer(*methods, method)


def _find_hook(module: nn.Module, name: str) -> tuple[int, upstream.BasePruningMethod] | None:
    """The hook that prunes ``module.<name>``, ours or upstream's, and its key."""
    if not module._forward_pre_hooks:
        return None
    found = [
        (key, hook)
        for key, hook in module._forward_pre_hooks.items()
        if isinstance(hook, upstream.BasePruningMethod) and hook._tensor_name == name
    ]
    if len(found) > 1:
        raise AssertionError(
            f"Avoid adding multiple pruning hooks to the same tensor {name} of module {module}: "
            f"expected at most 1, found {len(found)}. Use a PruningContainer."
        )
    return found[0] if found else None


def _check_prunable(module: nn.Module, name: str, scores: Tensor | None, *, pruned: bool) -> Tensor:
    """``module.<name>``, after the checks that need no computing."""
    parameter = module._parameters.get(name)  # past Module.__getattr__
    orig = getattr(module, name) if parameter is None else parameter
    if not pruned and parameter is None:
        raise TypeError(f"expected {name} of {module} to be a Parameter, got {type(orig).__name__}")
    if scores is not None:
        if scores.shape != orig.shape:
            raise AssertionError(
                "importance_scores should have the same shape as parameter "
                f"{name} of {module}, got {scores.shape} vs {orig.shape}"
            )
        # Upstream writes by the indices of the scores, which may be on the CPU.
        if scores.device != orig.device and not scores.is_cpu and not orig.is_meta:
            raise RuntimeError(
                "importance_scores should be on the device of parameter "
                f"{name} of {module}, got {scores.device} vs {orig.device}"
            )
    result: Tensor = orig
    return result
