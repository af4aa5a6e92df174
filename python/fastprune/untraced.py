"""Calls that torch.compile makes instead of tracing them.

What prunes a module depends on identities of objects, which compiled code would guard on. Dynamo
cannot trace upstream's functions whole either: it breaks the graph inside of them. Here it breaks
it before, and compiles nothing of what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def untraced(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)``, called while tracing, by a graph break."""
    import torch._dynamo  # which takes a second, and is there where something is traced

    return torch._dynamo.disable(function)(*args, **kwargs)


untraced._torchdynamo_disable = True  # type: ignore[attr-defined]
