"""The operators of torch.ops.fastprune, typed.

Each runs on CPU and CUDA tensors of any strides, under torch.compile too. csrc/ops.cpp is their
table of contents; docs/design.md says what they compute.
"""

from . import blocks, channels, elementwise, nm, rows, topk
from .blocks import *  # noqa: F403, by their __all__
from .channels import *  # noqa: F403
from .elementwise import *  # noqa: F403
from .nm import *  # noqa: F403
from .rows import *  # noqa: F403
from .topk import *  # noqa: F403
from .topk import topk_part as topk_part  # for parts.py, and so not among __all__

__all__: list[str] = []
__all__ += blocks.__all__
__all__ += channels.__all__
__all__ += elementwise.__all__
__all__ += nm.__all__
__all__ += rows.__all__
__all__ += topk.__all__
