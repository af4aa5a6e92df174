// topk_prune, nm_prune, row_prune, block_prune and channel_prune, which select and multiply: the
// products are differentiable in ts, the masks carry no gradient.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "autograd/product.h"
#include "common/op_types.h"
#include "dispatch/calls.h"
#include "dispatch/plain.h"

namespace fastprune::autograd {
namespace {

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

TensorLists topk_prune(at::TensorList scores, const OptionalTensorList& masks, at::TensorList ts,
                       ScalarList amount, const OptionalTensorList& factors, bool active_only) {
  return prune_list(
      scores, ts, [&] { return call_topk_masks(scores, masks, amount, factors, active_only); },
      [&] { return call_topk_prune(scores, masks, ts, amount, factors, active_only); });
}

TensorLists nm_prune(at::TensorList scores, const OptionalTensorList& masks, at::TensorList ts,
                     int64_t n, int64_t m, int64_t dim, const OptionalTensorList& factors,
                     bool is_signed, bool both) {
  return prune_list(
      scores, ts, [&] { return call_nm_masks(scores, masks, n, m, dim, factors, is_signed, both); },
      [&] { return call_nm_prune(scores, masks, ts, n, m, dim, factors, is_signed, both); });
}

TensorLists row_prune(at::TensorList scores, const OptionalTensorList& masks, at::TensorList ts,
                      const at::Scalar& amount, int64_t dim, const OptionalTensorList& factors,
                      bool absolute, bool is_signed) {
  return prune_list(
      scores, ts,
      [&] { return call_row_masks(scores, masks, amount, dim, factors, absolute, is_signed); },
      [&] { return call_row_prune(scores, masks, ts, amount, dim, factors, absolute, is_signed); });
}

TensorLists block_prune(at::TensorList units, const OptionalTensorList& masks, at::TensorList ts,
                        at::IntArrayRef block) {
  return prune_list(
      units, ts, [&] { return call_block_masks(units, masks, ts, block); },
      [&] { return call_block_prune(units, masks, ts, block); });
}

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
  m.impl("topk_prune", &topk_prune);
  m.impl("nm_prune", &nm_prune);
  m.impl("row_prune", &row_prune);
  m.impl("block_prune", &block_prune);
  m.impl("channel_prune", &channel_prune);
}

}  // namespace fastprune::autograd
