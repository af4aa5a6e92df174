"""patch and unpatch: our kernels for those who use torch.nn.utils.prune by its own name.

Upstream's classes stay the ones they are, and a few of their methods are replaced in place. So a
class of a user's that derives from one of them gains, and so do modules that were pruned before; a
pickle names upstream's classes, and loads where fastprune is not installed. A function or method
that somebody else has replaced already stays theirs.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import torch.nn.utils.prune as upstream
from torch import Tensor

from . import methods
from .base import BasePruningMethod
from .container import PruningContainer, deciding
from .functional import is_pruned, remove
from .globally import prune_globally
from .hook import Hook
from .native import Native, accepts_integers, select_one, stand_ins

__all__ = ["patch", "unpatch"]


def patch() -> AbstractContextManager[None]:
    """Let all of the process prune by our kernels, through :mod:`torch.nn.utils.prune` itself.

    :func:`torch.nn.utils.prune.global_unstructured` and the methods of upstream's classes do what
    ours do, with the same masks as before. Results are upstream's objects: hooks are instances of
    upstream's classes, and what is pickled loads without fastprune (but for ``out_proj`` of
    MultiheadAttention, whose class computes the product). Classes that derive from
    upstream's, hooks that exist already and modules imported earlier take part. Only
    ``global_unstructured`` imported by name before keeps upstream's code, which copies more
    around the same kernels.

    It lasts until :func:`unpatch`, or as a context until the last context is left:

    >>> with fastprune.patch():
    ...     m = torch.nn.utils.prune.l1_unstructured(nn.Linear(8, 4), "weight", amount=0.5)
    >>> m.weight_mask.sum()
    tensor(16.)

    Safe to call from several threads; other processes are not affected. A layer pruned earlier can
    be deep-copied while it carries a gradient from its next forward on.

    Returns:
        A context manager. Without ``with`` the patch stays.
    """
    hold = _Hold()
    with _lock:
        _keep(hold)
    return hold


def unpatch() -> None:
    """Undo :func:`patch`: each attribute of :mod:`torch.nn.utils.prune` is the one it was.

    :func:`torch.nn.utils.prune.global_unstructured` and the methods of upstream's classes are
    upstream's again, inside of a ``with`` too, whose end then does nothing. Does nothing where
    nothing is patched. Modules pruned meanwhile go on working. What others have put in place of
    ours meanwhile stays.

    >>> patched = fastprune.patch()
    >>> fastprune.unpatch()
    >>> torch.nn.utils.prune.global_unstructured.__globals__["__name__"]
    'torch.nn.utils.prune'

    Returns:
        None.
    """
    with _lock:
        _holds.clear()
        _restore()


class _Hold(AbstractContextManager[None]):
    """A reason for the patch to stay: a call of ``patch``, or each context entered with it."""

    def __init__(self) -> None:
        self.entered = False

    def __enter__(self) -> None:
        with _lock:
            if self.entered or self not in _holds:
                _keep(self)  # else the context takes over what patch() began
            self.entered = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _lock:
            if self in _holds:
                _holds.remove(self)
                if not _holds:
                    _restore()


class _Place:
    """An attribute of upstream's that is replaced.

    Args:
        owner: the class or module.
        name: of the attribute.
        make: from what is there, None if nothing, what takes its place. Called once, as functions
            are known by their ids.
        adds: whether there is nothing of that name before.
    """

    def __init__(
        self, owner: Any, name: str, make: Callable[[Any], Any], *, adds: bool = False
    ) -> None:
        self.owner, self.name, self.make, self.adds = owner, name, make, adds
        self.before: Any = None
        self.ours: Any = None

    def replace(self) -> None:
        current = vars(self.owner).get(self.name)
        if current is self.ours is not None:  # a mock has put it back after `restore`
            return
        function = getattr(current, "__func__", current)
        is_upstreams = getattr(function, "__globals__", None) is vars(upstream)
        if not (current is None if self.adds else is_upstreams):
            return  # somebody else has replaced it
        if self.ours is None:
            self.before, self.ours = current, self.make(current)
        setattr(self.owner, self.name, self.ours)

    def restore(self) -> None:
        if self.ours is None or vars(self.owner).get(self.name) is not self.ours:
            return
        if self.before is None:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self.before)


def _always(thing: Any) -> Callable[[Any], Any]:
    return lambda _: thing


def _stand_in(ours: Any, theirs: Any, original: Any) -> Any:
    """What takes the place of ``compute_mask`` in ``theirs``, upstream's class."""

    @functools.wraps(original)
    def compute_mask(self: Any, t: Tensor, default_mask: Tensor) -> Tensor:
        # A method of ours has asked already, and called this for what the operators do not take.
        native = not isinstance(self, Native) and isinstance(self, theirs)
        if native and (
            ours.accepts(self, default_mask, t) or accepts_integers(ours, self, default_mask, t)
        ):
            mask: Tensor = ours.select(self, (t,), (default_mask,), active_only=False)[0][0]
        else:
            mask = original(self, t, default_mask)
        return mask

    stand_ins[id(compute_mask)] = ours
    return compute_mask


def _container_stand_in(original: Any) -> Any:
    """What takes the place of ``compute_mask`` in upstream's container."""

    @functools.wraps(original)
    def compute_mask(self: Any, t: Tensor, default_mask: Tensor) -> Tensor:
        selected = None
        if not isinstance(self, PruningContainer):  # ours has asked already
            selected = select_one(self._pruning_methods[-1], t, default_mask, None, True)
        if selected is None:
            mask: Tensor = original(self, t, default_mask)
            return mask
        # Upstream writes into the mask that it is given, where it need not convert it.
        return default_mask.copy_(selected[0]) if default_mask.dtype == t.dtype else selected[0]

    deciding[id(compute_mask)] = compute_mask
    return compute_mask


def _global_stand_in(original: Any) -> Any:
    """What takes the place of ``global_unstructured``; its hooks are upstream's."""

    @functools.wraps(original)
    def global_unstructured(
        parameters: Any, pruning_method: Any, importance_scores: Any = None, **kwargs: Any
    ) -> None:
        prune_globally(
            parameters,
            pruning_method,
            importance_scores,
            kwargs,
            upstream.CustomFromMask,
            upstream.PruningContainer,
        )

    return global_unstructured


def _places() -> Iterator[_Place]:
    """All that is replaced."""
    base = upstream.BasePruningMethod
    # The very functions of ours, as the product of a hook is known to be the operator's by them.
    for name in ("__call__", "apply_mask", "remove"):
        yield _Place(base, name, _always(vars(Hook)[name]))
    yield _Place(base, "__deepcopy__", _always(vars(Hook)["__deepcopy__"]), adds=True)
    for name in ("apply", "prune"):
        yield _Place(base, name, _always(vars(BasePruningMethod)[name]))
    for name in methods.__all__:
        theirs = getattr(upstream, name, None)
        if theirs is not None:  # else a method that is ours alone
            make = functools.partial(_stand_in, getattr(methods, name), theirs)
            yield _Place(theirs, "compute_mask", make)
    yield _Place(upstream.PruningContainer, "compute_mask", _container_stand_in)
    yield _Place(upstream, "global_unstructured", _global_stand_in)
    for name, ours in (("remove", remove), ("is_pruned", is_pruned)):
        yield _Place(upstream, name, _always(ours))


#: Reentrant, as a finaliser or a signal handler may call in between.
_lock = threading.RLock()
_holds: list[_Hold] = []
_all_places = list(_places())


def _keep(hold: _Hold) -> None:
    """Add a reason for the patch to stay."""
    if not _holds:
        try:
            for place in _all_places:
                place.replace()
        except BaseException:  # an interrupt
            _restore()
            raise
    _holds.append(hold)


def _restore() -> None:
    for place in _all_places:
        place.restore()
