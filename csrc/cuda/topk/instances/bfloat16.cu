#include "cuda/topk/launch.cuh"

namespace fastprune::cuda {
template void launch_selection<Scores<Bf16, c10::BFloat16>>(const TopkArgs&, bool, bool);
}  // namespace fastprune::cuda
