// nm_prune: the products are differentiable in ts, the masks carry no gradient.
#include <torch/library.h>

#include "autograd/prune_list.h"
#include "dispatch/calls.h"

namespace fastprune::autograd {
namespace {

TensorLists nm_prune(at::TensorList scores, const MaskList& masks, at::TensorList ts, int64_t n,
                     int64_t m, int64_t dim, const MaskList& factors, bool is_signed, bool both) {
  return prune_list(
      scores, ts, [&] { return call_nm_masks(scores, masks, n, m, dim, factors, is_signed, both); },
      [&] { return call_nm_prune(scores, masks, ts, n, m, dim, factors, is_signed, both); });
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, Autograd, m) {
  m.impl("nm_prune", &nm_prune);
}

}  // namespace fastprune::autograd
