// The tie rule by one block: of the entries with one key, those of lowest index are pruned.
#pragma once

#include <cstdint>

#include "cuda/util/device.cuh"

namespace fastprune::cuda {

// Calls fn(i) in one thread, for the index of the rank-th of the ties among [0, count). 0 < rank,
// and there are as many.
template <int kBlock, class IsTie, class Fn>
__device__ __forceinline__ void find_tie(int64_t count, int64_t rank, const IsTie& is_tie,
                                         const Fn& fn) {
  using Scan = cub::BlockScan<int64_t, kBlock>;
  FASTPRUNE_SHARED(typename Scan::TempStorage, scan);
  const int64_t share = ceil_div(count, kBlock);
  const int64_t first = threadIdx.x * share;
  const int64_t end = first + share < count ? first + share : count;
  int64_t own = 0;
  for (int64_t i = first; i < end; ++i) own += is_tie(i);
  int64_t before = 0;
  Scan(scan).ExclusiveSum(own, before);
  if (rank <= before || rank > before + own) return;  // in all threads but one
  int64_t i = first;
  for (int64_t due = rank - before; due > 0; ++i) due -= is_tie(i);
  fn(i - 1);
}

}  // namespace fastprune::cuda
