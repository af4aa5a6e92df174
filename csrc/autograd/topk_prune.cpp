// topk_prune: the products are differentiable in ts, the masks carry no gradient.
#include <torch/library.h>

#include <algorithm>

#include "autograd/product.h"
#include "dispatch/calls.h"
#include "dispatch/plain.h"

namespace fastprune::autograd {
namespace {

TensorLists topk_prune(at::TensorList scores, const MaskList& masks, at::TensorList ts,
                       const at::Scalar& amount, bool active_only) {
  TensorLists result;
  auto& [new_masks, products] = result;
  if (ts.size() != scores.size() || std::all_of(ts.begin(), ts.end(), is_plain)) {
    at::AutoDispatchBelowADInplaceOrView below;
    result = call_topk_prune(scores, masks, ts, amount, active_only);
  } else {
    new_masks = call_topk_masks(scores, masks, amount, active_only);
    products = call_masked_muls(ts, new_masks);
    return result;
  }
  attach_products(ts, new_masks, products);
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, Autograd, m) {
  m.impl("topk_prune", &topk_prune);
}

}  // namespace fastprune::autograd
