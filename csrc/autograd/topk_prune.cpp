// topk_prune: the products are differentiable in ts, the masks carry no gradient.
#include <torch/library.h>

#include "autograd/prune_list.h"
#include "dispatch/calls.h"

namespace fastprune::autograd {
namespace {

TensorLists topk_prune(at::TensorList scores, const MaskList& masks, at::TensorList ts,
                       ScalarList amount, const MaskList& factors, bool active_only) {
  return prune_list(
      scores, ts, [&] { return call_topk_masks(scores, masks, amount, factors, active_only); },
      [&] { return call_topk_prune(scores, masks, ts, amount, factors, active_only); });
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, Autograd, m) {
  m.impl("topk_prune", &topk_prune);
}

}  // namespace fastprune::autograd
