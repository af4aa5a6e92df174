// row_prune: the products are differentiable in ts, the masks carry no gradient.
#include <torch/library.h>

#include "autograd/prune_list.h"
#include "dispatch/calls.h"

namespace fastprune::autograd {
namespace {

TensorLists row_prune(at::TensorList scores, const MaskList& masks, at::TensorList ts,
                      const at::Scalar& amount, int64_t dim, const MaskList& factors, bool absolute,
                      bool is_signed) {
  return prune_list(
      scores, ts,
      [&] { return call_row_masks(scores, masks, amount, dim, factors, absolute, is_signed); },
      [&] { return call_row_prune(scores, masks, ts, amount, dim, factors, absolute, is_signed); });
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, Autograd, m) {
  m.impl("row_prune", &row_prune);
}

}  // namespace fastprune::autograd
