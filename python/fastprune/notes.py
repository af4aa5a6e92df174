"""Which mask a module had when its newest method was applied.

A mask that has been loaded or written since is not the one that the methods made. What is noted is
not kept as an attribute, as ``vars(method)`` is to hold what upstream's does, nor is it copied.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor


class Note(weakref.ref):  # type: ignore[type-arg]
    """A weak reference to a method, with one to the mask, and how often that had been written."""

    __slots__ = ("key", "mask", "version")
    key: int
    mask: weakref.ref[Tensor]
    version: int | None


#: By the id of the method; an entry goes when its method dies.
_notes: dict[int, Note] = {}


def _forget(note: Any, notes: Any = _notes) -> None:
    notes.pop(note.key, None)


def note_mask(method: Any, mask: Tensor) -> None:
    """Note that ``method``, the hook or the parametrization's, has made ``mask``."""
    note = Note(method, _forget)
    note.key = id(method)
    note.mask = weakref.ref(mask)
    note.version = _version(mask)
    _notes[note.key] = note


def has_made(method: Any, mask: Tensor) -> bool:
    """Whether ``mask`` is the noted one, and nothing has been written into it since."""
    note = _notes.get(id(method))
    return note is not None and note.mask() is mask and note.version == _version(mask)


def _version(mask: Tensor) -> int | None:
    return None if mask.is_inference() else mask._version
