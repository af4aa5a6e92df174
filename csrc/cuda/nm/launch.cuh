// N:M on CUDA: the launch, one for a tensor. Compiled for each score dtype by itself, in
// instances/.
#pragma once

#include <ATen/core/Tensor.h>

#include "args/each.h"
#include "common/dtypes.h"
#include "cuda/nm/both_kernel.cuh"
#include "cuda/nm/long_run_kernel.cuh"
#include "cuda/nm/nm_kernel.cuh"
#include "cuda/nm/nm_masks.h"
#include "cuda/util/each.h"
#include "cuda/util/launch.cuh"

namespace fastprune::cuda {

// Whether entries along the dim are neighbours, and all operands aligned.
template <class Task>
bool takes_vectors(const ChannelShape& shape, const Task& task) {
  return shape.inner == 1 && is_aligned(task.scores) && is_aligned(task.mask) &&
         is_aligned(task.out) && is_aligned(task.t) && is_aligned(task.product);
}

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
    const bool in_fours =
        rule.run % 4 == 0 && args.shape.channels % 4 == 0 && takes_vectors(args.shape, task);
    const auto grid = [&](int runs) {  // of a block
      return grid_for(ceil_div(task.runs.count(), runs), NmPolicy::kBlocksPerMultiprocessor);
    };
    if (rule.run == 4 && in_fours) {
      FASTPRUNE_LAUNCH((nm_kernel<F, M, 4, true>), grid(NmPolicy::kThreads), NmPolicy::kThreads,
                       task);
    } else if (rule.run <= kRunInRegisters) {
      FASTPRUNE_LAUNCH((nm_kernel<F, M, kRunInRegisters, false>), grid(NmPolicy::kThreads),
                       NmPolicy::kThreads, task);
    } else if (in_fours) {
      FASTPRUNE_LAUNCH((nm_long_run_kernel<F, M, true>), grid(runs_of_block(rule.run)),
                       NmPolicy::kThreads, task);
    } else {
      FASTPRUNE_LAUNCH((nm_long_run_kernel<F, M, false>), grid(runs_of_block(rule.run)),
                       NmPolicy::kThreads, task);
    }
  });
}

template <class F>
void launch_nm_both(const EachArgs& args) {
  dispatch_mask_width(args.output.work.element_size(), [&](auto bits) {
    using M = decltype(bits);
    const BothTask<F, M> task{args.operands<F, M>(),
                              static_cast<const typename F::Bits*>(args.scores.const_data_ptr()),
                              device_factor(args.factor), Squares{args.shape}, args.is_signed};
    const unsigned grid = grid_for(ceil_div(task.squares.count(), NmPolicy::kThreads),
                                   NmPolicy::kBlocksPerMultiprocessor);
    if (takes_vectors(args.shape, task)) {
      FASTPRUNE_LAUNCH((nm_both_kernel<F, M, true>), grid, NmPolicy::kThreads, task);
    } else {
      FASTPRUNE_LAUNCH((nm_both_kernel<F, M, false>), grid, NmPolicy::kThreads, task);
    }
  });
}

}  // namespace fastprune::cuda
