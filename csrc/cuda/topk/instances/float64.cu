#include "cuda/topk/launch.cuh"

namespace fastprune::cuda {
template void launch_selection<Scores<Fp64, double>>(const TopkArgs&, bool, bool);
}  // namespace fastprune::cuda
