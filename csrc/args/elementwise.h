// Arguments of combine_masks, masked_mul and its forms: checked first, then prepared in the one
// form that the kernels take.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "args/common.h"

namespace fastprune {

inline void check_combine_masks(const at::Tensor& old_mask, const at::Tensor& new_mask) {
  check_mask_dtype("combine_masks", "old_mask", old_mask.scalar_type());
  check_mask("combine_masks", "new_mask", new_mask, "old_mask", old_mask);
}

inline void check_masked_mul(const char* op, const at::Tensor& t, const at::Tensor& mask) {
  check_floating(op, "t", t);
  check_mask(op, "mask", mask, "t", t);
}

inline void check_masked_muls(const char* op, at::TensorList ts, at::TensorList masks) {
  check_lengths(op, ts, masks);
  for (size_t i = 0; i < ts.size(); ++i) {
    const std::string at_i = "[" + std::to_string(i) + "]";
    check_floating(op, "ts" + at_i, ts[i]);
    check_mask(op, "masks" + at_i, masks[i], "ts" + at_i, ts[i]);
  }
}

// Both dense and with the same strides, so that elementwise kernels can read them side by side.
struct SameLayout {
  at::Tensor first;
  at::Tensor second;
};

// Whether two tensors of one shape lie in memory in the same order. The strides of dims of size 1
// say nothing: those of a 1 x 1 convolution's gradient are seldom its weight's.
inline bool have_same_strides(const at::Tensor& a, const at::Tensor& b) {
  for (int64_t dim = 0; dim < a.dim(); ++dim) {
    if (a.size(dim) != 1 && a.stride(dim) != b.stride(dim)) return false;
  }
  return true;
}

// In the layout that empty_like gives `first`; copies only what is not in it already.
inline SameLayout to_same_layout(const at::Tensor& first, const at::Tensor& second) {
  at::Tensor a = first;
  if (!first.is_non_overlapping_and_dense()) a = fresh_like(first).copy_(first);
  if (have_same_strides(a, second)) return {a, second};
  at::Tensor b = fresh_strided(a.sizes(), a.strides(), second.scalar_type(), second.device());
  b.copy_(second);
  return {a, b};
}

// Kernels multiply by a mask of `dtype` or of one byte; any other is converted first.
inline at::Tensor to_factor(const at::Tensor& mask, at::ScalarType dtype) {
  const at::ScalarType own = mask.scalar_type();
  return own == dtype || is_byte_mask(own) ? mask : mask.to(dtype);
}

// Calls fn with a value of the type of such a mask; T is the type of `dtype`.
template <class T, class Fn>
void dispatch_factor(at::ScalarType mask_dtype, Fn&& fn) {
  if (mask_dtype == c10::CppTypeToScalarType<T>::value) return fn(T{});
  if (mask_dtype == at::kBool) return fn(bool{});
  return fn(uint8_t{});
}

}  // namespace fastprune
