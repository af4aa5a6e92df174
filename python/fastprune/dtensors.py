"""Which tensors are DTensors, without importing torch.distributed.tensor.

That takes most of a second, and without it there is no DTensor.
"""

from __future__ import annotations

import sys
from typing import Any

#: The module without which there is no DTensor.
DTENSOR = "torch.distributed.tensor"


def is_dtensor(t: Any) -> bool:
    """Whether ``t`` is a DTensor."""
    kind = getattr(sys.modules.get(DTENSOR), "DTensor", None)
    return kind is not None and isinstance(t, kind)
