#include "cuda/nm/launch.cuh"

namespace fastprune::cuda {
template void launch_nm<Scores<Fp64, double>>(const NmArgs&);
}  // namespace fastprune::cuda
