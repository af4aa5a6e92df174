"""flip_mask: 1 where the mask is 0, and 0 elsewhere."""

import pytest
import torch

from support import reference
from support.compare import assert_same_bits
from support.inputs import INTEGERS, MASK_DTYPES, mask, name
from support.targets import Target


@pytest.mark.parametrize("size", [0, 1, 1025])
@pytest.mark.parametrize("dtype", [*MASK_DTYPES, *INTEGERS], ids=name)
def test_dtypes(target: Target, dtype: torch.dtype, size: int) -> None:
    old = mask("random", size, dtype).to(target.device)
    assert_same_bits(target.ops.flip_mask(old), reference.flip_mask(old))


def test_errors(target: Target) -> None:
    with pytest.raises(NotImplementedError, match=r"flip_mask\(\): expected mask to be floating"):
        target.ops.flip_mask(torch.ones(3, dtype=torch.complex64, device=target.device))


def test_opcheck() -> None:
    op = torch.ops.fastprune.flip_mask.default
    torch.library.opcheck(op, (torch.ones(3, 4, requires_grad=True),))
    assert op(torch.ones(3, 4, device="meta")).shape == (3, 4)
