// The parts of masked_mul.cu that other CUDA operators call.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace fastprune {
struct SameLayout;
}

namespace fastprune::cuda {

// mask * t of pairs of the same dtypes, in one launch. The outputs may be the tensors themselves.
void multiply_flat(const std::vector<SameLayout>& flat, const std::vector<at::Tensor>& out);

std::vector<at::Tensor> masked_muls(at::TensorList ts, at::TensorList masks);

}  // namespace fastprune::cuda
