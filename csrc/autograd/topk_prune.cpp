// topk_prune: the products are differentiable in ts, the masks carry no gradient.
#include <torch/library.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "autograd/product.h"
#include "dispatch/calls.h"
#include "dispatch/plain.h"

namespace fastprune::autograd {
namespace {

TensorLists topk_prune(at::TensorList scores, const MaskList& masks, at::TensorList ts,
                       ScalarList amount, bool active_only) {
  // Lists of different lengths go to the kernel, whose error names the argument.
  const bool plain = ts.size() != scores.size() || std::all_of(ts.begin(), ts.end(), is_plain);
  if (!plain) {
    std::vector<at::Tensor> new_masks = call_topk_masks(scores, masks, amount, active_only);
    std::vector<at::Tensor> products = call_masked_muls(ts, new_masks);
    return {std::move(new_masks), std::move(products)};
  }
  TensorLists result;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    result = call_topk_prune(scores, masks, ts, amount, active_only);
  }
  attach_products(ts, std::get<0>(result), std::get<1>(result));
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, Autograd, m) {
  m.impl("topk_prune", &topk_prune);
}

}  // namespace fastprune::autograd
