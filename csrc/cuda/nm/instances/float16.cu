#include "cuda/nm/launch.cuh"

namespace fastprune::cuda {
template void launch_nm<Scores<Fp16, c10::Half>>(const EachArgs&, const NmRule&);
template void launch_nm_both<Scores<Fp16, c10::Half>>(const EachArgs&);
}  // namespace fastprune::cuda
