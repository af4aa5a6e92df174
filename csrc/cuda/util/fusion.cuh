// The products that selection on CUDA fuses: of all score dtypes, with masks of the same dtype or
// of one byte. Free of torch headers.
#pragma once

#include "common/fusion.h"

namespace fastprune::cuda {

constexpr FusionRule kFusion{/*half=*/true, /*byte_masks=*/true};

}  // namespace fastprune::cuda
