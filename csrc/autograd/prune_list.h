// Operators that select in each tensor of a list and multiply: the products are differentiable in
// ts, the masks carry no gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "autograd/product.h"
#include "common/op_types.h"
#include "dispatch/calls.h"
#include "dispatch/plain.h"

namespace fastprune::autograd {

// `prune()` calls the operator, which selects by the tensors `by`, and `select()` the one that only
// selects.
template <class Select, class Prune>
TensorLists prune_list(at::TensorList by, at::TensorList ts, const Select& select,
                       const Prune& prune) {
  // Lists of different lengths go to the kernel, whose error names the argument.
  const bool plain = ts.size() != by.size() || std::all_of(ts.begin(), ts.end(), is_plain);
  if (!plain) {
    std::vector<at::Tensor> new_masks = select();
    std::vector<at::Tensor> products = call_masked_muls(ts, new_masks);
    return {std::move(new_masks), std::move(products)};
  }
  TensorLists result;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    result = prune();
  }
  attach_products(ts, std::get<0>(result), std::get<1>(result));
  return result;
}

}  // namespace fastprune::autograd
