// Selection among the entries of a list on CUDA, for one score format: launch.cuh and part.cuh,
// in instances/.
#pragma once

#include "args/topk.h"
#include "args/topk_part.h"

namespace fastprune::cuda {

// Writes the masks and products of `args`, whose amount has been checked as far as the host can.
template <class F>
void launch_selection(const TopkArgs& args, bool active_only, bool largest);

// One of the parts of a selection, on the current device.
template <class F>
c10::intrusive_ptr<TopkPart> make_part(TopkArgs args, at::ScalarType keys, bool active_only,
                                       bool largest);

}  // namespace fastprune::cuda
