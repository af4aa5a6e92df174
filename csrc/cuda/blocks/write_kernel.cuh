// block_masks and block_prune on CUDA: the kernel, which expands a mask of blocks to the entries. A
// block of threads takes a stretch of a row. Raw pointers, no torch headers.
#pragma once

#include <cstdint>

#include "common/block_grid.h"
#include "common/mask_operands.h"
#include "cuda/util/device.cuh"
#include "cuda/util/fusion.cuh"
#include "cuda/util/vec.cuh"

namespace fastprune::cuda {

template <class F, class M>
struct BlockWriteTask : MaskOperands<F, M> {
  const bool* units;
  BlockGrid grid;
};

template <class F, class M>
__global__ void __launch_bounds__(BlocksPolicy::kThreads, kOneBlock)
    block_write_kernel(const BlockWriteTask<F, M> task) {
  const BlockGrid& grid = task.grid;
  const int64_t stretches = ceil_div(grid.cols, BlocksPolicy::kStretch);
  for (int64_t number = blockIdx.x; number < grid.rows * stretches; number += gridDim.x) {
    const int64_t row = number / stretches;
    const int64_t first = (number - row * stretches) * BlocksPolicy::kStretch;
    const int64_t left = grid.cols - first;
    const int64_t end = first + (left < BlocksPolicy::kStretch ? left : BlocksPolicy::kStretch);
    const bool* units = task.units + row / grid.height * grid.across();
    for (int64_t c = first + threadIdx.x; c < end; c += BlocksPolicy::kThreads) {
      const int64_t entry = row * grid.cols + c;
      M value = task.mask == nullptr ? task.one : load_vec<1>(task.mask + entry).at[0];
      if (!units[c / grid.width]) value = M{0};
      store_vec<1>(task.out + entry, Vec<M, 1>{{value}});
      if constexpr (can_multiply<F, M>(kFusion, /*has_old_mask=*/true)) {
        if (task.product == nullptr) continue;
        const typename F::Bits t = load_vec<1>(task.t + entry).at[0];
        store_vec<1>(task.product + entry,
                     Vec<typename F::Bits, 1>{{product_bits<F, M>(value, t)}});
      }
    }
  }
}

}  // namespace fastprune::cuda
