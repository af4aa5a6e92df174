"""What is kept of the masks that were given to a tensor before its last one.

Upstream keeps each of them whole, though only the last is used again: a thousand rounds of
``global_unstructured`` hold a thousand masks. Here a mask of 0 and 1 is packed, one bit an entry,
once another follows it, and rounds of ``global_unstructured`` share the mask of the last one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor

from . import _C
from .dtensors import is_dtensor
from .lookup import methods_of
from .notes import has_made, note_mask
from .packing import packed, unpacked

#: Of CustomFromMask's ``__dict__``, as upstream's.
_NAME = "mask"

#: In the ``__dict__`` of a method: the mask before it.
BASE = "_fastprune_base"

#: Methods that say by themselves what they prune; methods.py adds ours.
saying: set[type] = {upstream.Identity, upstream.CustomFromMask}


class _Packed:
    """A mask of 0 and 1 that another one has followed."""

    of_round = False

    def __init__(self, bits: Tensor, like: Tensor) -> None:
        self.bits = bits
        self.shape = like.shape
        self.dtype = like.dtype

    def whole(self) -> Tensor:
        return unpacked(self.bits, self.shape).to(self.dtype)


class _Round:
    """The mask of the last of several rounds of ``global_unstructured``."""

    of_round = True

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def whole(self) -> Tensor:
        return self.mask


class _Kept(_Round):
    """A mask that cannot be packed."""

    of_round = False


# Inside of a CustomFromMask, which torch.load(weights_only=True) takes if it is told to.
torch.serialization.add_safe_globals([_Packed, _Round, _Kept])


class GivenMask:
    """The attribute ``mask`` of CustomFromMask: a tensor, however it is kept."""

    def __get__(self, method: Any, kind: type | None = None) -> Any:
        if method is None:
            return self
        try:
            kept = method.__dict__[_NAME]
        except KeyError:
            raise AttributeError(
                f"{type(method).__name__!r} object has no attribute {_NAME!r}"
            ) from None
        return kept.whole() if isinstance(kept, (_Packed, _Round)) else kept

    def __set__(self, method: Any, mask: Any) -> None:
        method.__dict__[_NAME] = mask

    def __delete__(self, method: Any) -> None:
        del method.__dict__[_NAME]


def _has_given_mask(method: Any) -> bool:
    return isinstance(getattr(type(method), _NAME, None), GivenMask) and _NAME in method.__dict__


def mark_round(method: Any) -> None:
    """Note that the method's mask is that of a round of ``global_unstructured``."""
    if _has_given_mask(method):
        method.__dict__[_NAME] = _Round(method.mask)


def is_round(method: Any) -> bool:
    """Whether the method's mask is that of a round, or of a later one of the same tensor."""
    return type(method.__dict__.get(_NAME)) is _Round


def was_round(method: Any) -> bool:
    """Whether ``global_unstructured`` made the method, whatever has followed it."""
    return getattr(method.__dict__.get(_NAME), "of_round", False) is True


def has_round_of(method: Any, other: Any) -> bool:
    """Whether both are rounds that share a mask."""
    return is_round(method) and method.__dict__[_NAME] is other.__dict__.get(_NAME)


def with_round(methods: Sequence[Any], other: Any, mask: Tensor) -> list[Any]:
    """The methods, of which copies that have ``mask`` replace those that share a round's."""
    of_its_own = _Round(mask)
    found = []
    for method in methods:
        shares = has_round_of(method, other)
        found.append(copy.copy(method) if shares else method)
        if shares:
            found[-1].__dict__[_NAME] = of_its_own
    return found


def note_said(hook: Any, mask: Tensor | None) -> None:
    """Note that ``hook`` has made ``mask``, if its newest method says what it prunes."""
    if mask is not None and type(methods_of(hook)[-1]) in saying:
        note_mask(hook, mask)


def is_unsaid(hook: Any, mask: Tensor | None) -> bool:
    """Whether the methods of ``hook`` would say another mask than the one that is there.

    It has been loaded or written since, or the hook is a copy, of which nothing is known.
    """
    methods = methods_of(hook)
    if type(methods[-1]) not in saying or mask is None or has_made(hook, mask):
        return False
    return _all_say(methods) and not is_dtensor(mask)


def keep_before(method: Any, mask: Tensor) -> None:
    """Let ``method`` keep the mask before it."""
    method.__dict__[BASE] = keep_small(mask.detach())


def _all_say(methods: Sequence[Any]) -> bool:
    for method in reversed(methods):
        if type(method) not in saying:
            return False
        if is_round(method):  # which says what those before it have pruned
            return True
    return True


def keep_small(mask: Tensor) -> _Packed | _Kept:
    """A mask of 0 and 1 as one bit an entry, any other as it is."""
    bits = _bits_of(mask)
    return _Kept(mask) if bits is None else _Packed(bits, mask)


def make_room(methods: Sequence[Any], method: Any) -> None:
    """Pack the masks that were given to ``methods`` if ``method`` brings another.

    What they say stays the same, so that this may stay if the method then fails. A round is left
    to :func:`share_round`.
    """
    if not _has_given_mask(method) or type(method.__dict__[_NAME]) is _Round:
        return
    packs: dict[int, Any] = {}  # by the id of what was shared
    for earlier in reversed(methods):
        if not _has_given_mask(earlier):
            continue
        kept = earlier.__dict__[_NAME]
        if isinstance(kept, (_Packed, _Kept)):
            return  # and so are those before it
        if id(kept) not in packs:
            packs[id(kept)] = keep_small(earlier.mask)
            packs[id(kept)].of_round = was_round(earlier)
        earlier.__dict__[_NAME] = packs[id(kept)]


def share_round(hook: Any) -> None:
    """Let earlier rounds of a container hold the mask of its last method, if that is a round."""
    *earlier, last = methods_of(hook)
    if not _has_given_mask(last) or type(last.__dict__[_NAME]) is not _Round:
        return
    for method in reversed(earlier):
        kept = method.__dict__[_NAME] if _has_given_mask(method) else None
        if isinstance(kept, (_Packed, _Kept)):
            return
        if type(kept) is _Round:
            kept.mask = last.mask
            last.__dict__[_NAME] = kept
            return


def _bits_of(mask: Any) -> Tensor | None:
    """A plain tensor of 0 and 1, packed; None for any other. Reads one on CUDA back to the host."""
    if type(mask) is not Tensor or mask.requires_grad or not _C.is_plain(mask):
        return None
    if mask.is_cpu:
        bits, binary = _C.pack(mask)
        return bits if binary else None
    if mask.is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    return packed(mask) if is_binary(mask) else None


def is_binary(mask: Tensor) -> bool:
    """Whether all entries are 0 or 1, by operations of torch. Reads it back to the host."""
    if mask.dtype == torch.bool or mask.numel() == 0:
        return True
    # Zero where the mask is its own truth value; of a NaN both are NaN.
    least, most = mask.bool().view(torch.uint8).to(mask.dtype).sub_(mask).aminmax()
    return bool((least == 0) & (most == 0))
