// Scores times a factor: what is ranked is |score| * |factor|, multiplied once, in float32, or in
// float64 for scores of float64. Free of ATen.
#pragma once

#include <cstring>
#include <type_traits>

#include "common/host_device.h"
#include "common/keys.h"

namespace fastprune {

// What scores of a format are multiplied in.
template <class F>
using WideOf = std::conditional_t<sizeof(typename F::Bits) == 8, double, float>;

// The format of the products; their keys have the type of F's.
template <class F>
using ScaledFormat = std::conditional_t<sizeof(typename F::Bits) == 8, Fp64, Fp32>;

// Wide, for kernels of which one takes scores of any of these formats with a factor.
template <class Wide, class... Sources>
struct Scaled : Wide {};

template <class F>
constexpr bool kIsScaled = false;
template <class Wide, class... Sources>
constexpr bool kIsScaled<Scaled<Wide, Sources...>> = true;

// The highest key of scores: by value, times a factor, or by magnitude.
template <class F>
FASTPRUNE_HD constexpr typename F::Key max_score_key(bool is_signed, bool scaled) {
  return is_signed ? max_signed_key<F>() : scaled ? max_key<ScaledFormat<F>>() : max_key<F>();
}

// The key of |score| * |factor|.
template <class F>
FASTPRUNE_HD typename F::Key scaled_key(typename F::Bits bits, WideOf<F> factor) {
  typename F::Value score;
  std::memcpy(&score, &bits, sizeof score);
  const WideOf<F> scaled = static_cast<WideOf<F>>(score) * factor;  // the key has no sign
  typename ScaledFormat<F>::Bits scaled_bits;
  std::memcpy(&scaled_bits, &scaled, sizeof scaled);
  return rank_key<ScaledFormat<F>>(scaled_bits, 0);
}

}  // namespace fastprune
