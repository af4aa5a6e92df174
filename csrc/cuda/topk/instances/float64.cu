#include "cuda/topk/launch.cuh"
#include "cuda/topk/part.cuh"

namespace fastprune::cuda {
template void launch_selection<Scores<Fp64, double>>(const TopkArgs&, bool, bool);
template c10::intrusive_ptr<TopkPart> make_part<Scores<Fp64, double>>(TopkArgs, at::ScalarType,
                                                                      bool, bool);
}  // namespace fastprune::cuda
