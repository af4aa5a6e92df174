// What the operators of args/ take from CUDA.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "args/factor.h"
#include "cuda/elementwise/masked_mul.h"
#include "cuda/util/factor.cuh"
#include "cuda/util/fusion.cuh"
#include "cuda/util/launch.cuh"

namespace fastprune::cuda {

struct OnCuda {
  using Guard = DeviceGuard;

  static constexpr FusionRule kFusion = cuda::kFusion;

  static bool keeps_bits(const at::Tensor&) { return true; }

  static std::vector<at::Tensor> masked_muls(at::TensorList ts, at::TensorList masks) {
    return cuda::masked_muls(ts, masks);
  }
};

inline DeviceFactor device_factor(const Factor& factor) {
  if (!factor.tensor.defined()) return {nullptr, FactorType::kNone, factor.broadcast};
  const at::ScalarType dtype = factor.tensor.scalar_type();
  const FactorType type = dtype == at::kFloat    ? FactorType::kFloat
                          : dtype == at::kDouble ? FactorType::kDouble
                                                 : FactorType::kScores;
  return {factor.tensor.const_data_ptr(), type, factor.broadcast};
}

}  // namespace fastprune::cuda
