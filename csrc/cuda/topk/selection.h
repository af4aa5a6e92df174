// Selection among the entries of a list on CUDA, for one score format: launch.cuh, in instances/.
#pragma once

#include "args/topk.h"

namespace fastprune::cuda {

// Writes the masks and products of `args`, whose amount has been checked as far as the host can.
template <class F>
void launch_selection(const TopkArgs& args, bool active_only, bool largest);

}  // namespace fastprune::cuda
