// block_masks and block_prune on CUDA: one launch for a tensor. Here the operators.
#include <ATen/ATen.h>

#include <optional>
#include <vector>

#include "args/blocks.h"
#include "common/dtypes.h"
#include "common/op_types.h"
#include "cuda/blocks/write_kernel.cuh"
#include "cuda/util/each.h"
#include "cuda/util/launch.cuh"

namespace fastprune::cuda {
namespace {

template <class F, class M>
BlockWriteTask<F, M> block_task(const BlockArgs& args) {
  using Bits = typename F::Bits;
  return {args.units.const_data_ptr<bool>(),
          args.mask.defined() ? static_cast<const M*>(args.mask.const_data_ptr()) : nullptr,
          static_cast<M*>(args.output.work.mutable_data_ptr()),
          args.t.defined() ? static_cast<const Bits*>(args.t.const_data_ptr()) : nullptr,
          args.product.defined() ? static_cast<Bits*>(args.product.mutable_data_ptr()) : nullptr,
          args.grid,
          static_cast<M>(one_bits(args.output.out.scalar_type()))};
}

void write(const BlockArgs& args) {
  const BlockGrid& grid = args.grid;
  const unsigned blocks = grid_for<BlocksPolicy>(
      grid.rows * static_cast<int64_t>(ceil_div(grid.cols, BlocksPolicy::kStretch)));
  const at::ScalarType dtype = args.product.defined() ? args.t.scalar_type() : at::kFloat;
  dispatch_scores(dtype, [&](auto format) {
    dispatch_mask_width(args.output.work.element_size(), [&](auto bits) {
      using F = decltype(format);
      using M = decltype(bits);
      const BlockWriteTask<F, M> task = block_task<F, M>(args);
      FASTPRUNE_LAUNCH((block_write_kernel<F, M>), blocks, BlocksPolicy::kThreads, task);
    });
  });
}

std::vector<at::Tensor> block_masks(at::TensorList units, const MaskList& masks,
                                    at::TensorList likes, at::IntArrayRef block,
                                    std::optional<at::ScalarType> dtype) {
  return masks_of_blocks<EachOnCuda>(units, masks, likes, block, dtype, write);
}

TensorLists block_prune(at::TensorList units, const MaskList& masks, at::TensorList ts,
                        at::IntArrayRef block) {
  return prune_blocks<EachOnCuda>(units, masks, ts, block, write);
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("block_masks", &block_masks);
  m.impl("block_prune", &block_prune);
}

}  // namespace fastprune::cuda
