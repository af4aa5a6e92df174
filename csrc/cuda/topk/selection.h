// Selection among the entries of a list on CUDA, for one score format: launch.cuh and part.cuh,
// in instances/.
#pragma once

#include "args/topk.h"
#include "args/topk_part.h"
#include "common/dtypes.h"
#include "common/scaled.h"

namespace fastprune::cuda {

// The formats of scores with a factor. One kernel takes scores of several dtypes, as there would be
// twice as many kernels otherwise.
using Scaled32 = Scaled<Scores<Fp32, float>, Scores<Fp32, float>, Scores<Fp16, c10::Half>,
                        Scores<Bf16, c10::BFloat16>>;
using Scaled64 = Scaled<Scores<Fp64, double>, Scores<Fp64, double>>;

// Which of the sources of these formats.
inline int source_index(at::ScalarType dtype) {
  return dtype == at::kHalf ? 1 : dtype == at::kBFloat16 ? 2 : 0;
}

// Writes the masks and products of `args`, whose amount has been checked as far as the host can.
template <class F>
void launch_selection(const TopkArgs& args, bool active_only, bool largest);

// One of the parts of a selection, on the current device.
template <class F>
c10::intrusive_ptr<TopkPart> make_part(TopkArgs args, at::ScalarType keys, bool active_only,
                                       bool largest);

}  // namespace fastprune::cuda
