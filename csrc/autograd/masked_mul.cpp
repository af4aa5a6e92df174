// masked_mul: in C++, as it runs in every forward. Plain tensors go to the kernels, all others to
// ATen's multiplication.
#include <torch/library.h>

#include "args/elementwise.h"
#include "autograd/product.h"
#include "dispatch/calls.h"
#include "dispatch/fallback.h"
#include "dispatch/plain.h"

namespace fastprune::autograd {
namespace {

at::Tensor masked_mul(const at::Tensor& t, const at::Tensor& mask) {
  if (!is_plain_pair(t, mask)) return aten_masked_mul(t, mask);
  // Converted once, for the kernel and for the backward.
  const at::Tensor factor = needs_graph(t) ? to_factor(mask, t.scalar_type()) : mask;
  at::Tensor product;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    product = call_masked_mul(t, factor);
  }
  attach_product(t, factor, product);
  return product;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, Autograd, m) {
  m.impl("masked_mul", &masked_mul);
}

}  // namespace fastprune::autograd
