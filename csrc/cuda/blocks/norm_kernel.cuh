// block_norms on CUDA: the kernel. Some lanes of a warp take a block of the matrix, a column each,
// and neighbouring lanes neighbouring blocks. Raw pointers, no torch headers.
#pragma once

#include <cstdint>

#include "common/block_grid.h"
#include "common/norms.h"
#include "cuda/util/device.cuh"
#include "cuda/util/vec.cuh"

namespace fastprune::cuda {

constexpr int kNormTasks = 16;  // matrices of a launch

template <class T>
struct BlockNormTask {
  const T* data;
  double* norms;
  BlockGrid grid;
  int lanes;  // of a block: a power of two, as wide as the block or kNormLanes
};

// Passed to the kernel by value.
template <class T>
struct BlockNormTasks {
  BlockNormTask<T> task[kNormTasks];
  int count;
  double p;
};

// Folds the lanes of a block in halves; the first has the total. With fewer lanes than kNormLanes
// the others would hold nothing, which changes no sum.
template <NormKind kind>
__device__ __forceinline__ double fold_block_lanes(double own, int lanes) {
  for (int half = kNormLanes / 2; half > 0; half /= 2) {
    const double other = __shfl_down_sync(0xffffffffu, own, half);
    if (half < lanes) own = norm_join<kind>(own, other);
  }
  return own;
}

template <class T, NormKind kind>
__global__ void __launch_bounds__(BlocksPolicy::kThreads, kOneBlock)
    block_norms_kernel(const BlockNormTasks<T> all) {
  const int lane = static_cast<int>(threadIdx.x) % kNormLanes;
  const int64_t warp =
      int64_t{blockIdx.x} * (BlocksPolicy::kThreads / kNormLanes) + threadIdx.x / kNormLanes;
  const int64_t warps = int64_t{gridDim.x} * (BlocksPolicy::kThreads / kNormLanes);
  // Of each matrix a whole number of warps, so that all lanes of one have as many lanes a block.
  int64_t before = 0;
  for (int t = 0; t < all.count; ++t) {
    const BlockNormTask<T>& task = all.task[t];
    const BlockGrid& grid = task.grid;
    const int together = kNormLanes / task.lanes;
    const int64_t needed = ceil_div(grid.count(), together);
    // The first of this warp's turns that is in the matrix.
    int64_t turn = warp - before % warps;
    if (turn < 0) turn += warps;
    for (; turn < needed; turn += warps) {
      const int64_t unit = turn * together + lane / task.lanes;
      const int64_t down = unit / grid.across();
      double own = norm_start<kind>();
      BlockGrid::Block block{};
      if (unit < grid.count()) {
        block = grid.block(down, unit - down * grid.across());
        for (int64_t c = lane % task.lanes; c < block.width; c += task.lanes) {
          double column = norm_start<kind>();
          const T* entry = task.data + block.row * grid.cols + block.col + c;
          for (int64_t r = 0; r < block.height; ++r, entry += grid.cols) {
            const auto x = static_cast<double>(load_vec<1>(entry).at[0]);
            column = norm_join<kind>(column, norm_term<kind>(x, all.p));
          }
          own = norm_join<kind>(own, column);
        }
      }
      own = fold_block_lanes<kind>(own, task.lanes);
      if (unit < grid.count() && lane % task.lanes == 0) {
        task.norms[unit] = mean_norm<kind>(own, block.height * block.width, all.p);
      }
    }
    before += needed;
  }
}

}  // namespace fastprune::cuda
