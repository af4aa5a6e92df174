// Arguments that nm_masks and row_masks, and those that prune, have in common: checked first, then
// prepared in the one form that the kernels take.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "args/common.h"
#include "args/factor.h"
#include "args/list.h"
#include "common/channel_shape.h"

namespace fastprune {

struct EachArgs;

struct EachList {
  using Args = EachArgs;

  const char* op;
  at::TensorList likes;             // the scores
  std::vector<at::Tensor> masks;    // undefined where there are none, or empty
  std::vector<at::Tensor> factors;  // as masks
  int64_t dim;
  bool is_signed;
  std::optional<at::ScalarType> dtype;
};

inline void check(const EachList& list) {
  const auto& [op, scores, masks, factors, dim, is_signed, dtype] = list;
  check_one_each(op, "mask", masks.size(), scores.size());
  check_one_each(op, "factor", factors.size(), scores.size());
  TORCH_CHECK_VALUE(!is_signed || factors.empty(), op,
                    "(): a factor multiplies magnitudes, so it cannot be given with is_signed");
  for (size_t i = 0; i < scores.size(); ++i) {
    check_ranked(op, scores, masks, factors, i);
    const int64_t dims = scores[i].dim();
    TORCH_CHECK_INDEX(dim < dims && dim >= -dims, op, "(): Invalid index ", dim,
                      " for tensor of size ", scores[i].sizes());
  }
  if (dtype.has_value()) check_mask_dtype(op, "dtype", *dtype);
}

// Of one tensor. Contiguous but for the factor.
struct EachArgs : MaskArgs {
  at::Tensor scores;
  Factor factor;
  ChannelShape shape;  // around the dim
  bool is_signed;

  EachArgs(const EachList& list, size_t i)
      : EachArgs(list, list.likes[i], i, list.dim < 0 ? list.dim + list.likes[i].dim() : list.dim) {
  }

 private:
  EachArgs(const EachList& list, const at::Tensor& of, size_t i, int64_t dim)
      : MaskArgs(of, at_or_none(list.masks, i), list.dtype),
        scores(of.contiguous()),
        factor(at_or_none(list.factors, i), of, dim),
        shape(channel_shape(of.sizes().data(), of.dim(), dim)),
        is_signed(list.is_signed) {}
};

}  // namespace fastprune
