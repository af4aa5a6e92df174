// row_masks and row_prune: their arguments, beside those of each.h, and the operators by a device's
// kernel.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "args/common.h"
#include "args/each.h"
#include "common/row.h"

namespace fastprune {

inline RowRule checked_row_rule(const char* op, const at::Scalar& amount, bool absolute) {
  check_amount(amount);
  TORCH_CHECK_TYPE(!absolute || amount.isFloatingPoint(), op,
                   "(): expected an absolute amount to be a float, got ", amount);
  return {to_amount(amount), absolute};
}

// kPruneBy: of a rule, what writes the masks of one tensor.
template <class Device, auto kPruneBy>
std::vector<at::Tensor> row_masks(at::TensorList scores, const OptionalTensorList& masks,
                                  const at::Scalar& amount, int64_t dim,
                                  const OptionalTensorList& factors, bool absolute, bool is_signed,
                                  std::optional<at::ScalarType> dtype) {
  const EachList list{"row_masks", scores, to_vector(masks), to_vector(factors), dim,
                      is_signed,   dtype};
  return masks_of_list<Device>(list, kPruneBy(checked_row_rule(list.op, amount, absolute)));
}

template <class Device, auto kPruneBy>
TensorLists row_prune(at::TensorList scores, const OptionalTensorList& masks, at::TensorList ts,
                      const at::Scalar& amount, int64_t dim, const OptionalTensorList& factors,
                      bool absolute, bool is_signed) {
  const EachList list{"row_prune", scores,    to_vector(masks), to_vector(factors),
                      dim,         is_signed, std::nullopt};
  return prune_list<Device>(list, ts, kPruneBy(checked_row_rule(list.op, amount, absolute)));
}

}  // namespace fastprune
