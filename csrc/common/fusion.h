// Fused: mask and product are written in one pass. When a kernel does that, and the product of
// values that it handles as bits. Free of ATen, as keys.h is.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/host_device.h"

namespace fastprune {

// What a kernel fuses beside float32 and float64 with a mask of their own dtype.
struct FusionRule {
  bool half;        // float16 and bfloat16 with an old mask too; without one they are fused anyway
  bool byte_masks;  // masks of bool and uint8 too
};

FASTPRUNE_HD constexpr bool fuses(const FusionRule& rule, bool same_dtype, bool byte_mask,
                                  int64_t bytes, bool has_old_mask) {
  return (rule.half || bytes > 2 || !has_old_mask) &&
         (same_dtype || (rule.byte_masks && byte_mask));
}

// The same as far as types of bits tell: M those of the mask, F the format that is multiplied.
template <class F, class M>
FASTPRUNE_HD constexpr bool can_multiply(const FusionRule& rule, bool has_old_mask) {
  return fuses(rule, sizeof(M) == sizeof(typename F::Bits), sizeof(M) == 1,
               sizeof(typename F::Bits), has_old_mask);
}

// The same for kernels whose mask is of T, the dtype of the tensor: that is never an integer.
template <class T>
FASTPRUNE_HD constexpr bool can_multiply() {
  return !std::is_integral<T>::value;
}

// The bits of mask * t, to the bit those of masked_mul. The mask is of F, or of bool or uint8.
template <class F, class M>
FASTPRUNE_HD typename F::Bits product_bits(M mask, typename F::Bits t) {
  using Value = typename F::Value;
  Value a;
  if constexpr (sizeof(M) == 1) {
    a = static_cast<Value>(mask);
  } else {
    std::memcpy(&a, &mask, sizeof a);
  }
  Value b;
  std::memcpy(&b, &t, sizeof b);
  const Value value = a * b;
  typename F::Bits bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// The same with a mask of 0 and 1, without arithmetic: for 16-bit formats, where that is in
// float32. A NaN may have other bits.
template <class F>
FASTPRUNE_HD typename F::Bits product_of_choice(bool pruned, typename F::Bits t) {
  using Bits = typename F::Bits;
  constexpr Bits kSign = static_cast<Bits>(Bits{1} << F::kKeyBits);
  constexpr Bits kNaN = static_cast<Bits>(F::kInf | (F::kInf >> 1));
  const Bits magnitude = t & static_cast<Bits>(~kSign);
  const Bits product = pruned ? static_cast<Bits>(t & kSign) : t;  // 0 * t is -0 for negative t
  return pruned & (magnitude >= static_cast<Bits>(F::kInf)) ? kNaN : product;
}

// The product of t with a mask entry of this value, 0 or 1 where there was no old mask.
template <class F, class M, bool kHasMask>
FASTPRUNE_HD typename F::Bits product_of(M value, bool pruned, typename F::Bits t) {
  if constexpr (!kHasMask && sizeof(t) == 2) {
    return product_of_choice<F>(pruned, t);
  } else {
    return product_bits<F, M>(value, t);
  }
}

}  // namespace fastprune
