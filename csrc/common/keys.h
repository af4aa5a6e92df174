// Score formats, the integer keys that order scores, and how keys are split into radix digits.
// Plain C++ on bits, free of ATen: host, device and tests compile the same text.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/host_device.h"

namespace fastprune {

// Score formats. Bits is the representation in memory; Key holds the magnitude, without the sign.
struct Fp16 {
  using Bits = uint16_t;
  using Key = uint32_t;
  static constexpr int kKeyBits = 15;
  static constexpr Key kInf = 0x7c00u;
};
struct Bf16 {
  using Bits = uint16_t;
  using Key = uint32_t;
  static constexpr int kKeyBits = 15;
  static constexpr Key kInf = 0x7f80u;
};
struct Fp32 {
  using Bits = uint32_t;
  using Key = uint32_t;
  static constexpr int kKeyBits = 31;
  static constexpr Key kInf = 0x7f800000u;
};
struct Fp64 {
  using Bits = uint64_t;
  using Key = uint64_t;
  static constexpr int kKeyBits = 63;
  static constexpr Key kInf = 0x7ff0000000000000ull;
};

template <class F>
FASTPRUNE_HD constexpr typename F::Key max_key() {
  return (typename F::Key{1} << F::kKeyBits) - 1;
}

// IEEE bits without the sign are ordered like magnitudes: -0 equals +0, denormals keep their order,
// Inf is above every finite value. All NaNs share the highest key. `flip` is 0 to prune the
// smallest first, max_key() to prune the largest first.
template <class F>
FASTPRUNE_HD typename F::Key rank_key(typename F::Bits bits, typename F::Key flip) {
  typename F::Key key = bits & max_key<F>();
  key = key > F::kInf ? max_key<F>() : key;
  return key ^ flip;
}

// A cheaper key for loops that only compare with a bound: NaNs keep their payload.
// rank_key(bits) < bound if and only if raw_key(bits) < raw_bound(bound). A bound of max_key() + 1
// is above every key.
template <class F>
FASTPRUNE_HD typename F::Key raw_key(typename F::Bits bits, typename F::Key flip) {
  return static_cast<typename F::Key>(bits & max_key<F>()) ^ flip;
}

template <class F>
FASTPRUNE_HD typename F::Key raw_bound(typename F::Key bound, typename F::Key flip) {
  using Key = typename F::Key;
  if (bound == 0 || bound > max_key<F>()) return bound;
  const Key lowest_nan = F::kInf + 1;  // if flipped, the highest NaN is below every number
  if (flip == 0) return bound < lowest_nan ? bound : lowest_nan;
  const Key lowest_number = max_key<F>() - F::kInf;
  return bound > lowest_number ? bound : lowest_number;
}

template <class F>
FASTPRUNE_HD constexpr typename F::Key max_signed_key() {
  return (typename F::Key{1} << F::kKeyBits) + F::kInf + 1;
}

// Keys that are ordered like values, of twice as many: -0 equals +0, NaNs share the highest.
template <class F>
FASTPRUNE_HD typename F::Key signed_key(typename F::Bits bits) {
  using Key = typename F::Key;
  constexpr Key kZero = Key{1} << F::kKeyBits;
  const Key magnitude = bits & max_key<F>();
  if (magnitude > F::kInf) return max_signed_key<F>();
  return (bits >> F::kKeyBits) != 0 ? kZero - magnitude : kZero + magnitude;
}

// Keys of 16-bit scores fit 16 bits, and twice as many are compared at a time.
template <class F>
using NarrowKey = std::conditional_t<sizeof(typename F::Bits) == 2, uint16_t, typename F::Key>;

// The key of a score by magnitude, or by value.
template <class F>
FASTPRUNE_HD typename F::Key score_key(typename F::Bits bits, bool is_signed) {
  return is_signed ? signed_key<F>(bits) : rank_key<F>(bits, 0);
}

// Of an entry that is not active: above the key of any score.
template <class Key>
constexpr Key kInactive = static_cast<Key>(~Key{0});

// A radix digit: `bits` bits of a key, from bit `shift` on.
struct Digit {
  int shift;
  int bits;
};

// Keys are read from the most significant digit on, at most `digit_bits` bits a pass.
FASTPRUNE_HD constexpr int digit_passes(int key_bits, int digit_bits) {
  return (key_bits + digit_bits - 1) / digit_bits;
}

FASTPRUNE_HD constexpr Digit digit_of_pass(int key_bits, int digit_bits, int pass) {
  const int top = key_bits - pass * digit_bits;
  const int bits = top < digit_bits ? top : digit_bits;
  return {top - bits, bits};
}

FASTPRUNE_HD int bit_width(uint64_t x) {
#if defined(__CUDA_ARCH__)
  return 64 - __clzll(static_cast<long long>(x));
#else
  int width = 0;
  while (width < 64 && (x >> width) != 0) ++width;
  return width;
#endif
}

// The most significant digit of key - lo, for keys in [lo, hi].
template <class Key>
FASTPRUNE_HD Digit digit_of_range(Key lo, Key hi, int digit_bits) {
  const int width = bit_width(hi - lo);
  return {width > digit_bits ? width - digit_bits : 0, digit_bits};
}

}  // namespace fastprune
