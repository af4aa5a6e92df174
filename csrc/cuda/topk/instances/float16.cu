#include "cuda/topk/launch.cuh"

namespace fastprune::cuda {
template void launch_selection<Scores<Fp16, c10::Half>>(const TopkArgs&, bool, bool);
}  // namespace fastprune::cuda
