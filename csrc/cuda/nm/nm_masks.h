// N:M on CUDA, for one score format: launch.cuh, in instances/.
#pragma once

#include "args/each.h"
#include "common/nm.h"

namespace fastprune::cuda {

// Writes the mask and the product of `args`, which has entries.
template <class F>
void launch_nm(const EachArgs& args, const NmRule& rule);

// The same for 2:4 both ways.
template <class F>
void launch_nm_both(const EachArgs& args);

}  // namespace fastprune::cuda
