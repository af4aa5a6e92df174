// A factor of the scores: what is ranked is |score| * |factor|, computed while selecting. Of any
// shape that broadcasts to the scores', and read in place.
#pragma once

#include <ATen/ExpandUtils.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "args/common.h"
#include "common/broadcast.h"

namespace fastprune {

inline void check_factor(const char* op, const std::string& name, const at::Tensor& factor,
                         const std::string& of_name, const at::Tensor& of) {
  check_floating(op, name, factor);
  TORCH_CHECK(at::is_expandable_to(factor.sizes(), of.sizes()), op, "(): expected ", name,
              " to broadcast to the shape of ", of_name, ", ", of.sizes(), ", got ",
              factor.sizes());
  TORCH_CHECK(factor.device() == of.device(), op, "(): expected ", name, " to be on the device of ",
              of_name, ", ", of.device(), ", got ", factor.device());
}

// The i-th of the scores, and its mask and factor, which are undefined where there are none.
inline void check_ranked(const char* op, at::TensorList scores, at::TensorList masks,
                         at::TensorList factors, size_t i) {
  const std::string at_i = "[" + std::to_string(i) + "]";
  check_floating(op, "scores" + at_i, scores[i]);
  if (!masks.empty() && masks[i].defined()) {
    check_mask(op, "masks" + at_i, masks[i], "scores" + at_i, scores[i]);
  }
  if (!factors.empty() && factors[i].defined()) {
    check_factor(op, "factors" + at_i, factors[i], "scores" + at_i, scores[i]);
  }
}

struct Factor {
  at::Tensor tensor;  // float32, float64 or as the scores; undefined: there is none
  Broadcast broadcast{};

  // Read by the index of `of` around a dim, or with a dim of -1 by its one index.
  Factor(const at::Tensor& factor, const at::Tensor& of, int64_t dim) : tensor(factor) {
    if (!tensor.defined()) return;
    if (tensor.element_size() == 2 && tensor.scalar_type() != of.scalar_type()) {
      tensor = tensor.to(at::kFloat);
    }
    if (place(tensor.expand(of.sizes()), dim)) return;
    tensor = tensor.expand(of.sizes()).contiguous();  // more than BroadcastDims has room for
    TORCH_INTERNAL_ASSERT(place(tensor, dim));
  }

 private:
  bool place(const at::Tensor& expanded, int64_t dim) {
    broadcast = {{}, dim < 0 ? 0 : expanded.stride(dim), {}};
    bool fits = true;
    for (int64_t d = expanded.dim() - 1; d >= 0; --d) {
      if (d == dim) continue;
      BroadcastDims& dims = d > dim ? broadcast.inner : broadcast.outer;
      fits = fits && dims.prepend(expanded.size(d), expanded.stride(d));
    }
    return fits;
  }
};

}  // namespace fastprune
