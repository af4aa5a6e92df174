// masked_muls for other CPU kernels.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace fastprune::cpu {

std::vector<at::Tensor> masked_muls(at::TensorList ts, at::TensorList masks);

}  // namespace fastprune::cpu
