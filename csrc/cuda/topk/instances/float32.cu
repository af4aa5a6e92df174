#include "cuda/topk/launch.cuh"
#include "cuda/topk/part.cuh"

namespace fastprune::cuda {
template void launch_selection<Scores<Fp32, float>>(const TopkArgs&, bool, bool);
template c10::intrusive_ptr<TopkPart> make_part<Scores<Fp32, float>>(TopkArgs, at::ScalarType, bool,
                                                                     bool);
}  // namespace fastprune::cuda
