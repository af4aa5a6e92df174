#include "cuda/nm/launch.cuh"

namespace fastprune::cuda {
template void launch_nm<Scores<Fp16, c10::Half>>(const EachArgs&, const NmRule&);
}  // namespace fastprune::cuda
