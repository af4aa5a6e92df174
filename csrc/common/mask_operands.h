// What a kernel that makes a mask reads and writes, beside what it decides by. Free of ATen.
#pragma once

#include <cstdint>

namespace fastprune {

// F: the format of t, M: the bits of masks.
template <class F, class M>
struct MaskOperands {
  using Bits = typename F::Bits;

  const M* mask;  // the old one; nullptr: all ones
  M* out;
  const Bits* t;  // nullptr, as `product`: only the mask is written
  Bits* product;
  M one;

  // From entry i on.
  MaskOperands from(int64_t i) const {
    const auto at = [i](auto* p) { return p == nullptr ? nullptr : p + i; };
    return {at(mask), at(out), at(t), at(product), one};
  }
};

}  // namespace fastprune
