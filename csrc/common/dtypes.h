// From dtypes at run time to types at compile time.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "common/keys.h"

namespace fastprune {

inline bool is_native_float(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf ||
         dtype == at::kBFloat16;
}

inline bool is_byte_mask(at::ScalarType dtype) {
  return dtype == at::kBool || dtype == at::kByte;
}

inline bool is_mask_dtype(at::ScalarType dtype) {
  return is_native_float(dtype) || is_byte_mask(dtype) || dtype == at::kChar ||
         dtype == at::kShort || dtype == at::kInt || dtype == at::kLong;
}

// A score format of keys.h with the type that computes in it.
template <class Format, class V>
struct Scores : Format {
  using Value = V;
};

// Calls fn(Scores<Fp32, float>{}) and so on. The argument checks have refused other dtypes.
template <class Fn>
void dispatch_scores(at::ScalarType dtype, Fn&& fn) {
  switch (dtype) {
    case at::kHalf:
      return fn(Scores<Fp16, c10::Half>{});
    case at::kBFloat16:
      return fn(Scores<Bf16, c10::BFloat16>{});
    case at::kFloat:
      return fn(Scores<Fp32, float>{});
    case at::kDouble:
      return fn(Scores<Fp64, double>{});
    default:
      TORCH_INTERNAL_ASSERT(false, "unchecked score dtype ", dtype);
  }
}

// Calls fn(uint32_t{}) for a mask with elements of four bytes and so on. Selection knows masks by
// the width alone: 0 is all zero bits in every dtype, 1 is one_bits(), all else is inactive and
// passes through.
template <class Fn>
void dispatch_mask_width(int64_t bytes, Fn&& fn) {
  switch (bytes) {
    case 1:
      return fn(uint8_t{});
    case 2:
      return fn(uint16_t{});
    case 4:
      return fn(uint32_t{});
    case 8:
      return fn(uint64_t{});
    default:
      TORCH_INTERNAL_ASSERT(false, "unchecked mask width ", bytes);
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

// Calls fn(float{}) and so on, for arithmetic.
template <class Fn>
void dispatch_float(at::ScalarType dtype, Fn&& fn) {
  dispatch_scores(dtype, [&](auto scores) { fn(typename decltype(scores)::Value{}); });
}

// Calls fn with a value of the mask's type.
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

}  // namespace fastprune
