// row_masks and row_prune on CUDA: one launch for a tensor. Here the operators.
#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>

#include <limits>

#include "args/row.h"
#include "common/dtypes.h"
#include "cuda/topk/row_kernel.cuh"
#include "cuda/topk/short_row_kernel.cuh"
#include "cuda/util/each.h"
#include "cuda/util/launch.cuh"
#include "cuda/util/register.h"

namespace fastprune::cuda {
namespace {

void launch_rows(const EachArgs& args, const RowRule& rule, long long* least_active) {
  dispatch_scores(args.scores.scalar_type(), [&](auto format) {
    dispatch_mask_width(args.output.work.element_size(), [&](auto bits) {
      using F = decltype(format);
      using M = decltype(bits);
      const RowTask<F, M> task{args.operands<F, M>(),
                               static_cast<const typename F::Bits*>(args.scores.const_data_ptr()),
                               device_factor(args.factor),
                               args.shape,
                               rule,
                               args.is_signed,
                               least_active};
      if (takes_short_rows(task)) {
        const int threads = threads_of_row<F>(args.shape.inner);
        const unsigned grid = grid_for(args.shape.channels, TopkPolicy::kBlocksPerMultiprocessor *
                                                                TopkPolicy::kThreads / threads);
        FASTPRUNE_LAUNCH((short_row_kernel<F, M>), grid, threads, task);
      } else {
        const unsigned grid = grid_for<TopkPolicy>(args.shape.channels);
        FASTPRUNE_LAUNCH((row_kernel<F, M>), grid, TopkPolicy::kThreads, task);
      }
    });
  });
}

auto prune_rows_by(const RowRule& rule) {
  return [rule](const EachArgs& args) {
    if (!rule.amount.is_count || !args.mask.defined()) {
      check_count_fits(rule.amount, args.shape.entries());
      return launch_rows(args, rule, nullptr);
    }
    // How many entries of a row are active is known on the device alone.
    const at::Tensor least =
        at::full({}, std::numeric_limits<int64_t>::max(), args.scores.options().dtype(at::kLong));
    static_assert(sizeof(long long) == sizeof(int64_t));
    launch_rows(args, rule, reinterpret_cast<long long*>(least.mutable_data_ptr<int64_t>()));
    check_count_fits(rule.amount, least.item<int64_t>());
  };
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("row_masks", &row_masks<OnCuda, prune_rows_by>);
  m.impl("row_prune", &row_prune<OnCuda, prune_rows_by>);
}

}  // namespace fastprune::cuda
