// nm_prune: the products are differentiable in ts, the masks carry no gradient.
#include <torch/library.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "autograd/product.h"
#include "dispatch/calls.h"
#include "dispatch/plain.h"

namespace fastprune::autograd {
namespace {

TensorLists nm_prune(at::TensorList scores, const MaskList& masks, at::TensorList ts, int64_t n,
                     int64_t m, int64_t dim, const MaskList& factors, bool is_signed) {
  // Lists of different lengths go to the kernel, whose error names the argument.
  const bool plain = ts.size() != scores.size() || std::all_of(ts.begin(), ts.end(), is_plain);
  if (!plain) {
    std::vector<at::Tensor> new_masks = call_nm_masks(scores, masks, n, m, dim, factors, is_signed);
    std::vector<at::Tensor> products = call_masked_muls(ts, new_masks);
    return {std::move(new_masks), std::move(products)};
  }
  TensorLists result;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    result = call_nm_prune(scores, masks, ts, n, m, dim, factors, is_signed);
  }
  attach_products(ts, std::get<0>(result), std::get<1>(result));
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, Autograd, m) {
  m.impl("nm_prune", &nm_prune);
}

}  // namespace fastprune::autograd
