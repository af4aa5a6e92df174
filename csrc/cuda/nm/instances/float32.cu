#include "cuda/nm/launch.cuh"

namespace fastprune::cuda {
template void launch_nm<Scores<Fp32, float>>(const EachArgs&, const NmRule&);
}  // namespace fastprune::cuda
