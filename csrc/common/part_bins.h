// The bins of the histograms by which parts of a selection agree (args/topk_part.h).
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace fastprune {

constexpr int kPartBins = 2048;

// Bins of 2^shift values each, from lo on.
struct PartBins {
  int64_t lo;
  int64_t shift;

  // The bin of a value, or -1 if it is in none.
  FASTPRUNE_HD int operator()(int64_t value) const {
    if (value < lo) return -1;
    const int64_t bin = (value - lo) >> shift;
    return bin < kPartBins ? static_cast<int>(bin) : -1;
  }
};

}  // namespace fastprune
