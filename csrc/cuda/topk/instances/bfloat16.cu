#include "cuda/topk/launch.cuh"
#include "cuda/topk/part.cuh"

namespace fastprune::cuda {
template void launch_selection<Scores<Bf16, c10::BFloat16>>(const TopkArgs&, bool, bool);
template c10::intrusive_ptr<TopkPart> make_part<Scores<Bf16, c10::BFloat16>>(TopkArgs,
                                                                             at::ScalarType, bool,
                                                                             bool);
}  // namespace fastprune::cuda
