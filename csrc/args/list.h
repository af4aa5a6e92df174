// Operators that make a mask for each tensor of a list by itself: what they have of one tensor, and
// the loops over a list.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "args/common.h"
#include "args/topk.h"
#include "common/fusion.h"
#include "common/mask_operands.h"
#include "common/op_types.h"

namespace fastprune {

// Contiguous.
struct MaskArgs {
  at::ScalarType dtype;  // of the tensor
  at::Tensor mask;       // undefined: ones
  Output output;
  // Where the product is fused; else undefined.
  at::Tensor t;
  at::Tensor product;

  MaskArgs(const at::Tensor& like, const at::Tensor& old, std::optional<at::ScalarType> new_dtype)
      : dtype(like.scalar_type()),
        mask(old.defined() ? old.contiguous() : at::Tensor()),
        output(like, old.defined() ? old.scalar_type() : new_dtype.value_or(dtype)) {}

  // Allocates the product if it can be fused.
  void prepare_product(const at::Tensor& with, const FusionRule& fusion) {
    if (!fuses_product(fusion, with, dtype, output.out.scalar_type(), mask.defined())) return;
    t = with;
    product = fresh_like(with);
  }

  template <class F, class M>
  MaskOperands<F, M> operands() const {
    using Bits = typename F::Bits;
    return {mask.defined() ? static_cast<const M*>(mask.const_data_ptr()) : nullptr,
            static_cast<M*>(output.work.mutable_data_ptr()),
            t.defined() ? static_cast<const Bits*>(t.const_data_ptr()) : nullptr,
            product.defined() ? static_cast<Bits*>(product.mutable_data_ptr()) : nullptr,
            static_cast<M>(one_bits(output.out.scalar_type()))};
  }
};

inline at::Tensor at_or_none(at::TensorList tensors, size_t i) {
  return tensors.empty() ? at::Tensor() : tensors[i];
}

// The masks that `make(args)` writes, for each `List::Args args(list, i)`. List has `op` and
// `likes`, and `check(list)` its checks. Device: cpu/util/each.h or cuda/util/each.h.
template <class Device, class List, class Make>
std::vector<at::Tensor> masks_of_list(const List& list, const Make& make) {
  check(list);
  std::vector<at::Tensor> masks;
  for (size_t i = 0; i < list.likes.size(); ++i) {
    const typename Device::Guard guard(list.likes[i]);
    typename List::Args args(list, i);
    if (list.likes[i].numel() > 0) make(args);
    masks.push_back(args.output.finish());
  }
  return masks;
}

// And their products with ts.
template <class Device, class List, class Make>
TensorLists prune_list(const List& list, at::TensorList ts, const Make& make) {
  check_prune(list.op, list.likes, ts);
  check(list);
  TensorLists result;
  auto& [masks, products] = result;
  for (size_t i = 0; i < list.likes.size(); ++i) {
    const typename Device::Guard guard(list.likes[i]);
    typename List::Args args(list, i);
    if (Device::keeps_bits(ts[i])) args.prepare_product(ts[i], Device::kFusion);
    if (list.likes[i].numel() > 0) make(args);
    masks.push_back(args.output.finish());
    products.push_back(args.product.defined() ? args.product
                                              : Device::masked_muls(ts[i], masks.back())[0]);
  }
  return result;
}

}  // namespace fastprune
