// Elementwise ops stream their operands: this brings two tensors of one shape into one order in
// memory, copying only what is not in it already.
#pragma once

#include <ATen/ATen.h>

namespace fastprune {

struct FlatPair {
  at::Tensor first;
  at::Tensor second;
};

// Both dense and of equal strides, in the layout empty_like gives the first.
inline FlatPair flatten_alike(const at::Tensor& first, const at::Tensor& second) {
  at::Tensor a = first;
  if (!first.is_non_overlapping_and_dense()) a = at::empty_like(first).copy_(first);
  if (second.strides() == a.strides()) return {a, second};
  at::Tensor b = at::empty_strided(a.sizes(), a.strides(), second.options());
  b.copy_(second);
  return {a, b};
}

// Multiplications read a mask of one byte as it is; any other dtype than `dtype` is converted
// first.
inline at::Tensor readable_mask(const at::Tensor& mask, at::ScalarType dtype) {
  const at::ScalarType own = mask.scalar_type();
  return own == dtype || own == at::kBool || own == at::kByte ? mask : mask.to(dtype);
}

// Calls fn with a value of the type such a mask has; T is that of `dtype`.
template <class T, class Fn>
void dispatch_readable(at::ScalarType mask_dtype, Fn&& fn) {
  if (mask_dtype == c10::CppTypeToScalarType<T>::value) return fn(T{});
  if (mask_dtype == at::kBool) return fn(bool{});
  return fn(uint8_t{});
}

}  // namespace fastprune
