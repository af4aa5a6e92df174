// The products of topk_prune are functions of ts; its masks carry no gradient.
#include <torch/library.h>

#include <algorithm>

#include "autograd/calls.h"
#include "autograd/products.h"
#include "dispatch/plain.h"

namespace fastprune::autograd {
namespace {

TensorLists topk_prune(at::TensorList scores, const MaskList& masks, at::TensorList ts,
                       const at::Scalar& amount, bool active_only) {
  TensorLists made;
  auto& [new_masks, products] = made;
  if (ts.size() != scores.size() || std::all_of(ts.begin(), ts.end(), is_plain)) {
    at::AutoDispatchBelowADInplaceOrView below;
    made = call_topk_prune(scores, masks, ts, amount, active_only);
  } else {
    new_masks = call_topk_masks(scores, masks, amount, active_only);
    products = call_masked_muls(ts, new_masks);
    return made;
  }
  attach_products(ts, new_masks, products);
  return made;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, Autograd, m) {
  m.impl("topk_prune", &topk_prune);
}

}  // namespace fastprune::autograd
