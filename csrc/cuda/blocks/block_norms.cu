// block_norms on CUDA: one launch for a list of up to kNormTasks tensors. Here the operator.
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <vector>

#include "args/blocks.h"
#include "common/dtypes.h"
#include "cuda/blocks/norm_kernel.cuh"
#include "cuda/util/launch.cuh"
#include "cuda/util/register.h"

namespace fastprune::cuda {
namespace {

// As wide as a block, or kNormLanes.
int lanes_of(const BlockGrid& grid) {
  int lanes = 1;
  while (lanes < kNormLanes && lanes < grid.width) lanes *= 2;
  return lanes;
}

template <class T>
void launch_block_norms(BlockNormTasks<T>& tasks, NormKind kind) {
  if (tasks.count == 0) return;
  int64_t warps = 0;
  for (int t = 0; t < tasks.count; ++t) {
    warps += ceil_div(tasks.task[t].grid.count(), kNormLanes / tasks.task[t].lanes);
  }
  const unsigned grid =
      grid_for<BlocksPolicy>(ceil_div(warps, BlocksPolicy::kThreads / kNormLanes));
  dispatch_norm(kind, [&](auto known) {
    FASTPRUNE_LAUNCH((block_norms_kernel<T, decltype(known)::value>), grid, BlocksPolicy::kThreads,
                     tasks);
  });
  tasks.count = 0;
}

// Tensors of one dtype and device that follow each other share launches.
std::vector<at::Tensor> block_norms(at::TensorList ts, at::IntArrayRef block, double p) {
  check_block_norms(ts, block);
  std::vector<at::Tensor> result;
  std::vector<at::Tensor> data;
  for (size_t i = 0; i < ts.size();) {
    const DeviceGuard guard(ts[i]);
    const auto alike = [&](const at::Tensor& t) {
      return t.scalar_type() == ts[i].scalar_type() && t.device() == ts[i].device();
    };
    size_t end = i + 1;
    while (end < ts.size() && alike(ts[end])) ++end;
    dispatch_float(ts[i].scalar_type(), [&](auto value) {
      using T = decltype(value);
      BlockNormTasks<T> tasks{};
      tasks.p = p;
      for (; i < end; ++i) {
        const BlockGrid grid = block_grid(ts[i], block);
        data.push_back(ts[i].contiguous());
        result.push_back(fresh({grid.down(), grid.across()}, at::kDouble, ts[i].device()));
        if (grid.count() == 0) continue;
        tasks.task[tasks.count++] = {data.back().const_data_ptr<T>(),
                                     result.back().mutable_data_ptr<double>(), grid,
                                     lanes_of(grid)};
        if (tasks.count == kNormTasks) launch_block_norms(tasks, norm_kind(p));
      }
      launch_block_norms(tasks, norm_kind(p));
    });
  }
  return result;
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("block_norms", &block_norms);
}

}  // namespace fastprune::cuda
