// masked_mul_: plain tensors go to the kernels, all others, and those through which a gradient
// flows, to ATen's multiplication.
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/library.h>

#include "autograd/product.h"
#include "dispatch/calls.h"
#include "dispatch/fallback.h"
#include "dispatch/plain.h"

namespace fastprune::autograd {
namespace {

void masked_mul_(at::Tensor& t, const at::Tensor& mask) {
  if (needs_graph(t) || !is_plain_pair(t, mask)) return aten_masked_mul_(t, mask);
  torch::autograd::check_inplace(t, /*requires_grad=*/false);
  {
    at::AutoDispatchBelowADInplaceOrView below;
    call_masked_mul_(t, mask);
  }
  torch::autograd::increment_version(t);  // for graphs that have saved t
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, Autograd, m) {
  m.impl("masked_mul_", &masked_mul_);
}

}  // namespace fastprune::autograd
