#include "cuda/topk/launch.cuh"

namespace fastprune::cuda {
template void launch_selection<Scaled32>(const TopkArgs&, bool, bool);
}  // namespace fastprune::cuda
