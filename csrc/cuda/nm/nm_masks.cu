// nm_masks and nm_prune on CUDA. Here the operators.
#include "cuda/nm/nm_masks.h"

#include <ATen/core/Tensor.h>

#include "args/nm.h"
#include "common/dtypes.h"
#include "cuda/util/each.h"
#include "cuda/util/launch.cuh"
#include "cuda/util/register.h"

namespace fastprune::cuda {
namespace {

auto keep_by(const NmRule& rule) {
  return [rule](const EachArgs& args) {
    dispatch_scores(args.scores.scalar_type(),
                    [&](auto format) { launch_nm<decltype(format)>(args, rule); });
  };
}

void keep_both(const EachArgs& args) {
  dispatch_scores(args.scores.scalar_type(),
                  [&](auto format) { launch_nm_both<decltype(format)>(args); });
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("nm_masks", &nm_masks<OnCuda, keep_by, keep_both>);
  m.impl("nm_prune", &nm_prune<OnCuda, keep_by, keep_both>);
}

}  // namespace fastprune::cuda
