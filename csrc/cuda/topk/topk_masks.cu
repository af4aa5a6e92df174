// topk_masks, topk_prune and topk_part on CUDA: sampled bracket (Floyd-Rivest) with a radix-select
// fallback. Here the operators.
#include <ATen/core/Tensor.h>

#include <optional>
#include <utility>
#include <vector>

#include "args/topk.h"
#include "args/topk_part.h"
#include "common/dtypes.h"
#include "common/op_types.h"
#include "cuda/elementwise/masked_mul.h"
#include "cuda/topk/selection.h"
#include "cuda/topk/state.cuh"
#include "cuda/util/launch.cuh"
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

std::vector<at::Tensor> topk_masks(at::TensorList scores, const OptionalTensorList& masks,
                                   ScalarList amount, const OptionalTensorList& factors,
                                   bool active_only, bool largest,
                                   std::optional<at::ScalarType> dtype) {
  const std::vector<at::Tensor> old_masks = to_vector(masks);
  const std::vector<at::Tensor> by = to_vector(factors);
  check_topk_masks("topk_masks", scores, old_masks, amount, by, dtype);
  if (scores.empty()) return {};
  const DeviceGuard guard(scores[0]);
  TopkArgs args = prepare_topk_masks(scores, old_masks, amount, by, dtype);
  select_and_write(args, active_only, largest);
  return args.finish();
}

TensorLists topk_prune(at::TensorList scores, const OptionalTensorList& masks, at::TensorList ts,
                       ScalarList amount, const OptionalTensorList& factors, bool active_only) {
  check_prune("topk_prune", scores, ts);
  if (scores.empty()) return {};
  const std::vector<at::Tensor> old_masks = to_vector(masks);
  const std::vector<at::Tensor> by = to_vector(factors);
  check_topk_masks("topk_prune", scores, old_masks, amount, by, std::nullopt);
  const DeviceGuard guard(scores[0]);
  TopkArgs args = prepare_topk_masks(scores, old_masks, amount, by, std::nullopt);
  prepare_topk_prune(args, ts, kFusion);
  select_and_write(args, active_only, /*largest=*/false);
  std::vector<at::Tensor> new_masks = args.finish();
  if (args.products.empty()) args.products = masked_muls(ts, new_masks);
  return {std::move(new_masks), std::move(args.products)};
}

c10::intrusive_ptr<TopkPart> topk_part(at::TensorList scores, const OptionalTensorList& masks,
                                       at::ScalarType keys, bool active_only, bool largest,
                                       std::optional<at::ScalarType> dtype) {
  const std::vector<at::Tensor> old_masks = to_vector(masks);
  const at::Scalar nothing(0);
  check_topk_masks("topk_part", scores, old_masks, nothing, {}, dtype);
  check_topk_part(scores, keys);
  const DeviceGuard guard(scores[0]);
  TopkArgs args = prepare_topk_masks(scores, old_masks, nothing, {}, dtype);
  c10::intrusive_ptr<TopkPart> part;
  dispatch_scores(args.scores[0].scalar_type(), [&](auto format) {
    part = make_part<decltype(format)>(std::move(args), keys, active_only, largest);
  });
  return part;
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("topk_masks", &topk_masks);
  m.impl("topk_prune", &topk_prune);
  define_topk_part();
  m.impl("topk_part", &topk_part);
}

}  // namespace fastprune::cuda
