// masked_mul by ATen's operators, as torch.nn.utils.prune multiplies: for what the kernels do not
// take.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "common/dtypes.h"

namespace fastprune {

// Whether a kernel takes the pair: strided, of dtypes it knows, and of one shape. Shapes that do
// not even broadcast go to the kernel too, as its error names the argument.
inline bool is_native_pair(const at::Tensor& t, const at::Tensor& mask) {
  return is_native_float(t.scalar_type()) && is_mask_dtype(mask.scalar_type()) &&
         t.layout() == at::kStrided && mask.layout() == at::kStrided &&
         (t.sizes() == mask.sizes() || !at::are_expandable(t.sizes(), mask.sizes()));
}

inline bool are_native_pairs(at::TensorList ts, at::TensorList masks) {
  if (ts.size() != masks.size()) return true;  // the kernel's error, too
  for (size_t i = 0; i < ts.size(); ++i) {
    if (!is_native_pair(ts[i], masks[i])) return false;
  }
  return true;
}

inline at::Tensor aten_masked_mul(const at::Tensor& t, const at::Tensor& mask) {
  return at::mul(mask.to(t.scalar_type()), t);
}

inline void aten_masked_mul_(at::Tensor& t, const at::Tensor& mask) {
  t.mul_(mask.to(t.scalar_type()));
}

inline void check_lengths(const char* op, at::TensorList ts, at::TensorList masks) {
  TORCH_CHECK(ts.size() == masks.size(), op, "(): expected as many masks as tensors, ", ts.size(),
              ", got ", masks.size());
}

inline std::vector<at::Tensor> aten_masked_muls(at::TensorList ts, at::TensorList masks) {
  check_lengths("masked_muls", ts, masks);  // tracing and batching call this first
  std::vector<at::Tensor> products;
  products.reserve(ts.size());
  for (size_t i = 0; i < ts.size(); ++i) products.push_back(aten_masked_mul(ts[i], masks[i]));
  return products;
}

}  // namespace fastprune
