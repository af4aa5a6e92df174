// Norms of channels on CUDA, for one dtype: norm_launch.cuh, in instances/.
#pragma once

#include <ATen/core/Tensor.h>

#include "cuda/channels/norm_sums.cuh"

namespace fastprune::cuda {

// Writes the norms of the channels of `data`, contiguous, as the task says.
template <class T>
void launch_norms(const at::Tensor& data, const NormTask& task, const at::Tensor& norms);

}  // namespace fastprune::cuda
