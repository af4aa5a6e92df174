// The products that selection on the CPU fuses: those that take no conversion.
#pragma once

#include "common/fusion.h"

namespace fastprune::cpu {

constexpr FusionRule kFusion{/*half=*/false, /*byte_masks=*/false};

}  // namespace fastprune::cpu
