"""A faster torch.nn.utils.prune: the same API, the same masks, kernels of our own.

>>> import fastprune as prune
>>> module = prune.l1_unstructured(torch.nn.Linear(8, 4), "weight", amount=0.5)
>>> module.weight_mask.sum()
tensor(16.)
"""

from typing import TYPE_CHECKING

import torch

try:
    from . import _C as _C
except ImportError as error:
    from .loading import explained

    raise explained(error, __file__) from None

# One that was built for another torch may load all the same, and read tensors wrongly.
if _C.build_info()["torch"].split(".")[:2] != torch.__version__.split(".")[:2]:
    raise ImportError(
        f"fastprune was built for torch {_C.build_info()['torch']}, and this is "
        f"{torch.__version__}. Build it anew with: pip install --no-build-isolation ."
    )

# Now, as a program may put fastprune under that name.
from torch.nn.utils import prune as _upstream

from . import (
    blocks,
    caching,
    calibration,
    checking,
    checkpoints,
    functional,
    inplace,
    local,
    methods,
    nm,
    ops,
    parametrization,
    patching,
    reporting,
    rows,
    scored,
)
from ._version import __version__ as __version__
from .base import BasePruningMethod
from .blocks import *  # noqa: F403, by their __all__
from .caching import *  # noqa: F403
from .calibration import *  # noqa: F403
from .checking import *  # noqa: F403
from .checkpoints import *  # noqa: F403
from .container import PruningContainer
from .functional import *  # noqa: F403
from .inplace import *  # noqa: F403
from .local import *  # noqa: F403
from .methods import *  # noqa: F403
from .nm import *  # noqa: F403
from .packing import packed, unpacked
from .parametrization import *  # noqa: F403
from .patching import *  # noqa: F403
from .reporting import *  # noqa: F403
from .rows import *  # noqa: F403
from .scored import *  # noqa: F403

__all__ = ["BasePruningMethod", "PruningContainer", "ops", "packed", "unpacked"]
__all__ += blocks.__all__
__all__ += caching.__all__
__all__ += calibration.__all__
__all__ += checking.__all__
__all__ += checkpoints.__all__
__all__ += functional.__all__
__all__ += inplace.__all__
__all__ += local.__all__
__all__ += methods.__all__
__all__ += nm.__all__
__all__ += parametrization.__all__
__all__ += patching.__all__
__all__ += reporting.__all__
__all__ += rows.__all__
__all__ += scored.__all__

if not TYPE_CHECKING:  # a type checker would then accept any name

    def __getattr__(name):
        """What upstream's module has besides: private functions, and the names that it imports."""
        if name not in vars(_upstream) or name.startswith("__"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(_upstream, name)

    def __dir__():
        """What is public here, and what upstream's module shows."""
        return sorted({*__all__, *vars(_upstream), "__version__"})
