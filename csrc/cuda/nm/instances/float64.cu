#include "cuda/nm/launch.cuh"

namespace fastprune::cuda {
template void launch_nm<Scores<Fp64, double>>(const EachArgs&, const NmRule&);
template void launch_nm_both<Scores<Fp64, double>>(const EachArgs&);
}  // namespace fastprune::cuda
