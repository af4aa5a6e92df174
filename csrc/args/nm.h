// nm_masks and nm_prune: their arguments, beside those of each.h, and the operators by a device's
// kernel.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "args/each.h"
#include "common/nm.h"
#include "common/nm_both.h"

namespace fastprune {

inline NmRule checked_nm_rule(const char* op, int64_t n, int64_t m) {
  TORCH_CHECK_VALUE(m >= 1 && m <= kMostRun, op, "(): expected m to be between 1 and ", kMostRun,
                    ", got ", m);
  TORCH_CHECK_VALUE(n >= 0 && n <= m, op, "(): expected n to be between 0 and m, ", m, ", got ", n);
  return {static_cast<int>(n), static_cast<int>(m)};
}

// The same for 2:4 both ways: rows are the first dim and columns the second, whichever of them
// `dim` is.
inline EachList checked_both(EachList list, int64_t n, int64_t m) {
  const char* op = list.op;
  TORCH_CHECK_VALUE(n == 2 && m == kSide, op, "(): expected 2:4 with both, got ", n, ":", m);
  for (size_t i = 0; i < list.likes.size(); ++i) {
    const std::string name = "scores[" + std::to_string(i) + "]";
    const at::IntArrayRef sizes = list.likes[i].sizes();
    const int64_t dims = list.likes[i].dim();
    TORCH_CHECK_VALUE(dims >= 2 && sizes[0] % kSide == 0 && sizes[1] % kSide == 0, op,
                      "(): expected ", name, " to have two dims divisible by 4 first with both, ",
                      "got shape ", sizes);
    const int64_t dim = list.dim < 0 ? list.dim + dims : list.dim;
    TORCH_CHECK_VALUE(dim == 0 || dim == 1, op, "(): expected dim to be 0 or 1 with both, got ",
                      list.dim);
    TORCH_CHECK_VALUE(!at_or_none(list.masks, i).defined(), op, "(): expected no old mask of ",
                      name, " with both, got one");
  }
  list.dim = 1;
  return list;
}

// kKeepBy: of a rule, what writes the masks of one tensor; kKeepBoth: that of 2:4 both ways.
template <class Device, auto kKeepBy, auto kKeepBoth>
std::vector<at::Tensor> nm_masks(at::TensorList scores, const OptionalTensorList& masks, int64_t n,
                                 int64_t m, int64_t dim, const OptionalTensorList& factors,
                                 bool is_signed, std::optional<at::ScalarType> dtype, bool both) {
  const EachList list{"nm_masks", scores, to_vector(masks), to_vector(factors), dim,
                      is_signed,  dtype};
  if (both) return masks_of_list<Device>(checked_both(list, n, m), kKeepBoth);
  return masks_of_list<Device>(list, kKeepBy(checked_nm_rule(list.op, n, m)));
}

template <class Device, auto kKeepBy, auto kKeepBoth>
TensorLists nm_prune(at::TensorList scores, const OptionalTensorList& masks, at::TensorList ts,
                     int64_t n, int64_t m, int64_t dim, const OptionalTensorList& factors,
                     bool is_signed, bool both) {
  const EachList list{"nm_prune", scores,    to_vector(masks), to_vector(factors),
                      dim,        is_signed, std::nullopt};
  if (both) return prune_list<Device>(checked_both(list, n, m), ts, kKeepBoth);
  return prune_list<Device>(list, ts, kKeepBy(checked_nm_rule(list.op, n, m)));
}

}  // namespace fastprune
