// Arithmetic of float64 of which each result is rounded, so that CPU and CUDA give the same bits:
// nvcc would contract a product and a sum to fma, which rounds once where the CPU rounds twice.
// Free of ATen.
#pragma once

#include "common/host_device.h"

namespace fastprune {

FASTPRUNE_HD double rounded_mul(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

FASTPRUNE_HD double rounded_add(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dadd_rn(a, b);
#else
  return a + b;
#endif
}

// The same for formulas.
struct Rounded {
  double value;
};

FASTPRUNE_HD constexpr Rounded operator-(Rounded a) {
  return {-a.value};
}
FASTPRUNE_HD Rounded operator+(Rounded a, Rounded b) {
  return {rounded_add(a.value, b.value)};
}
FASTPRUNE_HD Rounded operator-(Rounded a, Rounded b) {
  return a + -b;
}
FASTPRUNE_HD Rounded operator*(Rounded a, Rounded b) {
  return {rounded_mul(a.value, b.value)};
}

}  // namespace fastprune
