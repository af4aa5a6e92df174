// The part of masked_mul.cu that other CUDA operators call.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace fastprune::cuda {

std::vector<at::Tensor> masked_muls(at::TensorList ts, at::TensorList masks);

}  // namespace fastprune::cuda
