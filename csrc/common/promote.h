// Keys of one score format as keys of a wider one, for a selection among scores of several dtypes.
// Plain C++ on bits, as keys.h: conversions of values would lose denormals where those are flushed.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/keys.h"

namespace fastprune {

// How a format's magnitude is made of bits.
struct KeyLayout {
  int mantissa_bits;
  int exponent_bias;
  uint64_t inf;
  uint64_t max;  // of NaN
};

template <class F>
FASTPRUNE_HD constexpr KeyLayout key_layout() {
  constexpr int kExponentBits = F::kKeyBits == 63 ? 11 : F::kInf == 0x7c00u ? 5 : 8;
  return {F::kKeyBits - kExponentBits, (1 << (kExponentBits - 1)) - 1, F::kInf, max_key<F>()};
}

// The key in the layout `to` of the value that has `key` in the layout `from`, which is not wider.
// Keys keep their order, and so do NaNs and infinity above all others.
FASTPRUNE_HD uint64_t promote_key(uint64_t key, const KeyLayout& from, const KeyLayout& to) {
  if (key > from.inf) return to.max;
  if (key == from.inf) return to.inf;
  const int shift = to.mantissa_bits - from.mantissa_bits;
  if (from.exponent_bias == to.exponent_bias) return key << shift;
  const uint64_t hidden = uint64_t{1} << from.mantissa_bits;
  const uint64_t rebias = static_cast<uint64_t>(to.exponent_bias - from.exponent_bias);
  if (key >= hidden) return (key << shift) + (rebias << to.mantissa_bits);
  if (key == 0) return 0;
  // A denormal, which is a normal number in the wider format.
  const int lift = from.mantissa_bits + 1 - bit_width(key);
  return ((key << (lift + shift)) + ((rebias - static_cast<uint64_t>(lift)) << to.mantissa_bits));
}

// From the keys of a list, which are flipped to prune the largest first, to the keys in which
// several lists are compared, and back.
struct Promotion {
  KeyLayout from;
  KeyLayout to;
  bool flipped;

  FASTPRUNE_HD uint64_t operator()(uint64_t key) const {
    return flipped ? to.max - promote_key(from.max - key, from, to) : promote_key(key, from, to);
  }

  // The lowest key of the list that is not below `bound`, or from.max + 1 if all are.
  FASTPRUNE_HD uint64_t lowest_from(uint64_t bound) const {
    uint64_t low = 0;
    uint64_t high = from.max + 1;
    while (low < high) {
      const uint64_t middle = low + (high - low) / 2;
      if ((*this)(middle) < bound) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    // All NaNs have the key from.max.
    return !flipped && low > from.inf && low < from.max ? from.max : low;
  }
};

}  // namespace fastprune
