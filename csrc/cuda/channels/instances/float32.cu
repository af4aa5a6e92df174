#include "cuda/channels/norm_launch.cuh"

namespace fastprune::cuda {
template void launch_norms<float>(const at::Tensor&, const NormTask&, const at::Tensor&);
}  // namespace fastprune::cuda
