// Detects flush-to-zero, under which mask * t differs from selecting t or 0.
#pragma once

#include <ATen/core/Tensor.h>

#include <limits>

namespace fastprune::cpu {

// Whether torch.set_flush_denormal is on: then arithmetic, and so a product, loses small bfloat16.
inline bool flushes_denormals() {
  volatile float tiny = std::numeric_limits<float>::denorm_min();
  return tiny * 1.0f == 0.0f;
}

// Whether 1 * t is t to the bit, so that a product with a mask of 0 and 1 can be chosen.
inline bool keeps_bits(const at::Tensor& t) {
  return t.scalar_type() != at::kBFloat16 || !flushes_denormals();
}

}  // namespace fastprune::cpu
