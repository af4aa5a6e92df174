// N:M on CUDA, for one score format: launch.cuh, in instances/.
#pragma once

#include "args/each.h"
#include "common/nm.h"

namespace fastprune::cuda {

// Writes the mask and the product of `args`, which has entries.
template <class F>
void launch_nm(const EachArgs& args, const NmRule& rule);

}  // namespace fastprune::cuda
