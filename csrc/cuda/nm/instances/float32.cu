#include "cuda/nm/launch.cuh"

namespace fastprune::cuda {
template void launch_nm<Scores<Fp32, float>>(const EachArgs&, const NmRule&);
template void launch_nm_both<Scores<Fp32, float>>(const EachArgs&);
}  // namespace fastprune::cuda
