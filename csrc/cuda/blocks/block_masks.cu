// block_masks and block_prune on CUDA: one launch for a tensor. Here the operators.
#include <ATen/core/Tensor.h>

#include "args/blocks.h"
#include "common/dtypes.h"
#include "cuda/blocks/write_kernel.cuh"
#include "cuda/util/each.h"
#include "cuda/util/launch.cuh"
#include "cuda/util/register.h"

namespace fastprune::cuda {
namespace {

void write(const BlockArgs& args) {
  const BlockGrid& grid = args.grid;
  const unsigned blocks = grid_for<BlocksPolicy>(
      grid.rows * static_cast<int64_t>(ceil_div(grid.cols, BlocksPolicy::kStretch)));
  dispatch_scores(args.dtype, [&](auto format) {
    dispatch_mask_width(args.output.work.element_size(), [&](auto bits) {
      using F = decltype(format);
      using M = decltype(bits);
      const BlockWriteTask<F, M> task{args.operands<F, M>(), args.units.const_data_ptr<bool>(),
                                      grid};
      FASTPRUNE_LAUNCH((block_write_kernel<F, M>), blocks, BlocksPolicy::kThreads, task);
    });
  });
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("block_masks", &block_masks<OnCuda, write>);
  m.impl("block_prune", &block_prune<OnCuda, write>);
}

}  // namespace fastprune::cuda
