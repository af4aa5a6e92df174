// masked_muls: lists of plain tensors go to the kernels, all others to ATen's multiplication.
#include <torch/library.h>

#include <vector>

#include "autograd/product.h"
#include "dispatch/calls.h"
#include "dispatch/fallback.h"
#include "dispatch/plain.h"

namespace fastprune::autograd {
namespace {

std::vector<at::Tensor> masked_muls(at::TensorList ts, at::TensorList masks) {
  check_lengths("masked_muls", ts, masks);
  for (size_t i = 0; i < ts.size(); ++i) {
    if (!is_plain_pair(ts[i], masks[i])) return aten_masked_muls(ts, masks);
  }
  std::vector<at::Tensor> products;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    products = call_masked_muls(ts, masks);
  }
  attach_products(ts, masks, products);
  return products;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, Autograd, m) {
  m.impl("masked_muls", &masked_muls);
}

}  // namespace fastprune::autograd
