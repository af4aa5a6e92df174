// Channel norms: their arithmetic, and the one order in which CPU and CUDA sum, so that both give
// the same bits. Free of ATen.
//
// A channel's elements are split into chunks of kNormChunk. Element j of a chunk is added to lane
// j % kNormLanes, the lanes are folded in halves, and the chunks are added from first to last.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "common/host_device.h"
#include "common/power.h"
#include "common/rounded.h"

namespace fastprune {

constexpr int kNormLanes = 32;
constexpr int kNormChunk = 1024;

// At least one, even of a channel without elements.
inline int64_t norm_chunks(int64_t size) {
  return size > kNormChunk ? (size + kNormChunk - 1) / kNormChunk : 1;
}

enum class NormKind : int { kZero, kOne, kTwo, kPower, kMax, kMin };

inline NormKind norm_kind(double p) {
  if (p == 0.0) return NormKind::kZero;
  if (p == 1.0) return NormKind::kOne;
  if (p == 2.0) return NormKind::kTwo;
  if (std::isinf(p)) return p > 0 ? NormKind::kMax : NormKind::kMin;
  return NormKind::kPower;
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

// What one element contributes to its lane.
template <NormKind kind>
FASTPRUNE_HD double norm_term(double x, double p) {
  const double a = fabs(x);
  switch (kind) {
    case NormKind::kZero:
      return a != 0.0 ? 1.0 : 0.0;
    case NormKind::kTwo:
      return rounded_mul(a, a);
    case NormKind::kPower:
      return power(a, p);
    default:
      return a;
  }
}

// Combines two partial norms.
template <NormKind kind>
FASTPRUNE_HD double norm_join(double a, double b) {
  if (kind == NormKind::kMax) return (a != a || a > b) ? a : b;  // NaN wins, as in torch
  if (kind == NormKind::kMin) return (a != a || a < b) ? a : b;
  return rounded_add(a, b);
}

// The partial norm of no elements.
template <NormKind kind>
FASTPRUNE_HD double norm_start() {
  return kind == NormKind::kMin ? INFINITY : 0.0;
}

template <NormKind kind>
FASTPRUNE_HD double norm_finish(double total, double p) {
  if (kind == NormKind::kTwo) return sqrt(total);
  if (kind == NormKind::kPower) return power(total, 1.0 / p);
  return total;
}

}  // namespace fastprune
