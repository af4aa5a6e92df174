// N:M on CUDA: the launch, one for a tensor. Compiled for each score dtype by itself, in
// instances/.
#pragma once

#include <ATen/ATen.h>

#include "args/each.h"
#include "common/dtypes.h"
#include "cuda/nm/nm_kernel.cuh"
#include "cuda/nm/nm_masks.h"
#include "cuda/util/each.h"
#include "cuda/util/launch.cuh"

namespace fastprune::cuda {

template <class F, class M>
NmTask<F, M> nm_task(const EachArgs& args, const NmRule& rule) {
  using Bits = typename F::Bits;
  const auto pointer = [](const at::Tensor& t) {
    return t.defined() ? t.const_data_ptr() : nullptr;
  };
  return {static_cast<const Bits*>(args.scores.const_data_ptr()),
          static_cast<const M*>(pointer(args.mask)),
          static_cast<M*>(args.output.work.mutable_data_ptr()),
          static_cast<const Bits*>(pointer(args.t)),
          args.product.defined() ? static_cast<Bits*>(args.product.mutable_data_ptr()) : nullptr,
          device_factor(args.factor),
          Runs(args.shape, rule.run),
          rule,
          args.is_signed,
          static_cast<M>(one_bits(args.output.out.scalar_type()))};
}

template <class F>
void launch_nm(const EachArgs& args, const NmRule& rule) {
  dispatch_mask_width(args.output.work.element_size(), [&](auto bits) {
    using M = decltype(bits);
    const NmTask<F, M> task = nm_task<F, M>(args, rule);
    const unsigned grid = grid_for(ceil_div(task.runs.count(), NmPolicy::kThreads),
                                   NmPolicy::kBlocksPerMultiprocessor);
    const int run = rule.run;
    const bool whole = args.shape.inner == 1 && args.shape.channels % run == 0 &&
                       is_aligned(task.scores) && is_aligned(task.mask) && is_aligned(task.out) &&
                       is_aligned(task.t) && is_aligned(task.product);
    if (run == 4 && whole) {
      FASTPRUNE_LAUNCH((nm_kernel<F, M, 4, true>), grid, NmPolicy::kThreads, task);
    } else if (run <= 8) {
      FASTPRUNE_LAUNCH((nm_kernel<F, M, 8, false>), grid, NmPolicy::kThreads, task);
    } else {
      FASTPRUNE_LAUNCH((nm_kernel<F, M, kMostRun, false>), grid, NmPolicy::kThreads, task);
    }
  });
}

}  // namespace fastprune::cuda
