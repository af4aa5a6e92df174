// Arguments of row_masks and row_prune, beside those of each.h.
#pragma once

#include <ATen/ATen.h>

#include "args/common.h"
#include "common/row.h"

namespace fastprune {

inline RowRule checked_row_rule(const char* op, const at::Scalar& amount, bool absolute) {
  check_amount(amount);
  TORCH_CHECK_TYPE(!absolute || amount.isFloatingPoint(), op,
                   "(): expected an absolute amount to be a float, got ", amount);
  return {to_amount(amount), absolute};
}

}  // namespace fastprune
