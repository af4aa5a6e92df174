"""The operators of torch.ops.fastprune, typed.

Each runs on CPU and CUDA tensors of any strides, under torch.compile too. csrc/ops.cpp is their
table of contents; docs/design.md says what they compute.
"""

from .channels import channel_mask, channel_norms, channel_prune
from .elementwise import combine_masks, masked_mul, masked_mul_, masked_muls
from .topk import topk_masks, topk_prune

__all__ = [
    "channel_mask",
    "channel_norms",
    "channel_prune",
    "combine_masks",
    "masked_mul",
    "masked_mul_",
    "masked_muls",
    "topk_masks",
    "topk_prune",
]
