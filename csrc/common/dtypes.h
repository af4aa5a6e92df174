// From a tensor's dtype to the formats of selection.h.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "common/selection.h"

namespace fastprune {

// Calls fn(Fp32{}) and so on. The checks have let nothing else through.
template <class Fn>
void dispatch_score(at::ScalarType dtype, Fn&& fn) {
  switch (dtype) {
    case at::kHalf:
      return fn(Fp16{});
    case at::kBFloat16:
      return fn(Bf16{});
    case at::kFloat:
      return fn(Fp32{});
    case at::kDouble:
      return fn(Fp64{});
    default:
      TORCH_INTERNAL_ASSERT(false, "unchecked score dtype ", dtype);
  }
}

// Calls fn(uint32_t{}) for a four-byte mask and so on.
template <class Fn>
void dispatch_mask_width(int64_t bytes, Fn&& fn) {
  switch (bytes) {
    case 1:
      return fn(MaskElement<1>::Bits{});
    case 2:
      return fn(MaskElement<2>::Bits{});
    case 4:
      return fn(MaskElement<4>::Bits{});
    case 8:
      return fn(MaskElement<8>::Bits{});
    default:
      TORCH_INTERNAL_ASSERT(false, "unchecked mask width ", bytes);
  }
}

// Calls fn(float{}) and so on, for arithmetic.
template <class Fn>
void dispatch_float(at::ScalarType dtype, Fn&& fn) {
  switch (dtype) {
    case at::kHalf:
      return fn(c10::Half{});
    case at::kBFloat16:
      return fn(c10::BFloat16{});
    case at::kFloat:
      return fn(float{});
    case at::kDouble:
      return fn(double{});
    default:
      TORCH_INTERNAL_ASSERT(false, "unchecked dtype ", dtype);
  }
}

// Calls fn with a value of the mask's type: floating, bool or an integer.
template <class Fn>
void dispatch_mask(at::ScalarType dtype, Fn&& fn) {
  switch (dtype) {
    case at::kBool:
      return fn(bool{});
    case at::kByte:
      return fn(uint8_t{});
    case at::kChar:
      return fn(int8_t{});
    case at::kShort:
      return fn(int16_t{});
    case at::kInt:
      return fn(int32_t{});
    case at::kLong:
      return fn(int64_t{});
    default:
      return dispatch_float(dtype, fn);
  }
}

// Calls fn with the kind of norm as a compile-time constant.
template <class Fn>
void dispatch_norm(NormKind kind, Fn&& fn) {
  switch (kind) {
    case NormKind::kZero:
      return fn(std::integral_constant<NormKind, NormKind::kZero>{});
    case NormKind::kOne:
      return fn(std::integral_constant<NormKind, NormKind::kOne>{});
    case NormKind::kTwo:
      return fn(std::integral_constant<NormKind, NormKind::kTwo>{});
    case NormKind::kPower:
      return fn(std::integral_constant<NormKind, NormKind::kPower>{});
    case NormKind::kMax:
      return fn(std::integral_constant<NormKind, NormKind::kMax>{});
    case NormKind::kMin:
      return fn(std::integral_constant<NormKind, NormKind::kMin>{});
  }
}

// The bit pattern of 1 in a dtype.
inline uint64_t one_bits(at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
      return 0x3c00u;
    case at::kBFloat16:
      return 0x3f80u;
    case at::kFloat:
      return 0x3f800000u;
    case at::kDouble:
      return 0x3ff0000000000000ull;
    default:
      return 1u;  // bool and integers
  }
}

}  // namespace fastprune
