#include "cuda/nm/launch.cuh"

namespace fastprune::cuda {
template void launch_nm<Scores<Bf16, c10::BFloat16>>(const EachArgs&, const NmRule&);
template void launch_nm_both<Scores<Bf16, c10::BFloat16>>(const EachArgs&);
}  // namespace fastprune::cuda
