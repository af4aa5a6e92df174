// How many entries or channels to prune, computed on the device.
#pragma once

#include <cstdint>

#include "common/selection.h"
#include "cuda/util/device.cuh"

namespace fastprune::cuda {

// Never more than `active`, to stay within bounds: the host rejects a larger count afterwards.
__device__ __forceinline__ int64_t bounded_budget(const Amount& amount, int64_t active) {
  const int64_t wanted = budget(amount, active);
  return wanted < active ? wanted : active;
}

}  // namespace fastprune::cuda
