#include "cuda/topk/launch.cuh"

namespace fastprune::cuda {
template void launch_selection<Scaled64>(const TopkArgs&, bool, bool);
}  // namespace fastprune::cuda
