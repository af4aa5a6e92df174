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

template <class F>
void launch_nm(const EachArgs& args, const NmRule& rule) {
  dispatch_mask_width(args.output.work.element_size(), [&](auto bits) {
    using M = decltype(bits);
    const NmTask<F, M> task{args.operands<F, M>(),
                            static_cast<const typename F::Bits*>(args.scores.const_data_ptr()),
                            device_factor(args.factor),
                            Runs(args.shape, rule.run),
                            rule,
                            args.is_signed};
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
