// topk_masks, topk_prune and topk_part on CUDA: sampled bracket (Floyd-Rivest) with a radix-select
// fallback. Here the operators.
#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

#include "args/topk.h"
#include "args/topk_part.h"
#include "common/dtypes.h"
#include "cuda/topk/selection.h"
#include "cuda/topk/state.cuh"
#include "cuda/util/each.h"
#include "cuda/util/register.h"

namespace fastprune::cuda {
namespace {

void select_and_write(const TopkArgs& args, bool active_only, bool largest) {
  if (!args.any_mask || !active_only || args.total == 0) check_counts_fit(args);
  if (args.total == 0) return;
  if (!args.factors.empty()) {
    if (args.rank_dtype() == at::kDouble) {
      return launch_selection<Scaled64>(args, active_only, largest);
    }
    return launch_selection<Scaled32>(args, active_only, largest);
  }
  dispatch_scores(args.scores[0].scalar_type(), [&](auto format) {
    launch_selection<decltype(format)>(args, active_only, largest);
  });
}

c10::intrusive_ptr<TopkPart> make_part_of(TopkArgs args, at::ScalarType keys, bool active_only,
                                          bool largest) {
  c10::intrusive_ptr<TopkPart> part;
  dispatch_scores(args.scores[0].scalar_type(), [&](auto format) {
    part = make_part<decltype(format)>(std::move(args), keys, active_only, largest);
  });
  return part;
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("topk_masks", &topk_masks<OnCuda, &select_and_write>);
  m.impl("topk_prune", &topk_prune<OnCuda, &select_and_write>);
  define_topk_part();
  m.impl("topk_part", &topk_part<OnCuda, &make_part_of>);
}

}  // namespace fastprune::cuda
