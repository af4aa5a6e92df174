#include "cuda/channels/norm_launch.cuh"

namespace fastprune::cuda {
template void launch_norms<double>(const at::Tensor&, const NormTask&, const at::Tensor&);
}  // namespace fastprune::cuda
