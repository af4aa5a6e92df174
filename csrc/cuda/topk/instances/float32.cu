#include "cuda/topk/launch.cuh"

namespace fastprune::cuda {
template void launch_selection<Scores<Fp32, float>>(const TopkArgs&, bool, bool);
}  // namespace fastprune::cuda
