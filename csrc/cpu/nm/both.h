// 2:4 both ways on the CPU.
#pragma once

#include "args/each.h"

namespace fastprune::cpu {

// Writes the mask and the product of `args`, which has entries.
void keep_both(const EachArgs& args);

}  // namespace fastprune::cpu
