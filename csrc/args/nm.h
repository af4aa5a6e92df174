// nm_masks and nm_prune: their arguments, beside those of each.h, and the operators by a device's
// kernel.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <vector>

#include "args/each.h"
#include "common/nm.h"

namespace fastprune {

inline NmRule checked_nm_rule(const char* op, int64_t n, int64_t m) {
  TORCH_CHECK_VALUE(m >= 1 && m <= kMostRun, op, "(): expected m to be between 1 and ", kMostRun,
                    ", got ", m);
  TORCH_CHECK_VALUE(n >= 0 && n <= m, op, "(): expected n to be between 0 and m, ", m, ", got ", n);
  return {static_cast<int>(n), static_cast<int>(m)};
}

// kKeepBy: of a rule, what writes the masks of one tensor.
template <class Device, auto kKeepBy>
std::vector<at::Tensor> nm_masks(at::TensorList scores, const MaskList& masks, int64_t n, int64_t m,
                                 int64_t dim, const MaskList& factors, bool is_signed,
                                 std::optional<at::ScalarType> dtype) {
  const EachList list{"nm_masks", scores, to_vector(masks), to_vector(factors), dim,
                      is_signed,  dtype};
  return masks_of_list<Device>(list, kKeepBy(checked_nm_rule(list.op, n, m)));
}

template <class Device, auto kKeepBy>
TensorLists nm_prune(at::TensorList scores, const MaskList& masks, at::TensorList ts, int64_t n,
                     int64_t m, int64_t dim, const MaskList& factors, bool is_signed) {
  const EachList list{"nm_prune", scores,    to_vector(masks), to_vector(factors),
                      dim,        is_signed, std::nullopt};
  return prune_list<Device>(list, ts, kKeepBy(checked_nm_rule(list.op, n, m)));
}

}  // namespace fastprune
