// channel_prune: the product is differentiable in t, the mask carries no gradient.
#include <torch/library.h>

#include <utility>

#include "autograd/product.h"
#include "dispatch/calls.h"
#include "dispatch/plain.h"

namespace fastprune::autograd {
namespace {

TensorPair channel_prune(const at::Tensor& scores, const at::Tensor& t,
                         const std::optional<at::Tensor>& mask, const at::Scalar& amount,
                         int64_t dim, bool active_only) {
  if (!is_plain(t)) {
    at::Tensor new_mask = call_channel_mask(scores, t, mask, amount, dim, active_only);
    at::Tensor product = call_masked_mul(t, new_mask);
    return {std::move(new_mask), std::move(product)};
  }
  TensorPair result;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    result = call_channel_prune(scores, t, mask, amount, dim, active_only);
  }
  attach_product(t, std::get<0>(result), std::get<1>(result));
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, Autograd, m) {
  m.impl("channel_prune", &channel_prune);
}

}  // namespace fastprune::autograd
