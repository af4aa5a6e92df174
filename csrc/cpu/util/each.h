// What the loops of args/each.h take from the CPU.
#pragma once

#include <ATen/core/Tensor.h>

#include "cpu/elementwise/masked_mul.h"
#include "cpu/util/denormals.h"
#include "cpu/util/fusion.h"

namespace fastprune::cpu {

struct EachOnCpu {
  struct Guard {
    explicit Guard(const at::Tensor&) {}
  };

  static constexpr FusionRule kFusion = cpu::kFusion;

  static bool keeps_bits(const at::Tensor& t) { return cpu::keeps_bits(t); }

  static at::Tensor masked_mul(const at::Tensor& t, const at::Tensor& mask) {
    return masked_muls(t, mask)[0];
  }
};

}  // namespace fastprune::cpu
