// Arguments of block_norms, block_masks and block_prune: checked first, then prepared in the one
// form that the kernels take.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "args/common.h"
#include "args/topk.h"
#include "common/block_grid.h"
#include "common/fusion.h"
#include "common/op_types.h"

namespace fastprune {

inline void check_block(const char* op, at::IntArrayRef block) {
  TORCH_CHECK_VALUE(block.size() == 2 && block[0] >= 1 && block[1] >= 1, op,
                    "(): expected block to be two positive numbers, got ", block);
}

// The first two dims are cut, all others are within a block. A block that is larger than the tensor
// is as large as that.
inline BlockGrid block_grid(const at::Tensor& t, at::IntArrayRef block) {
  const int64_t rows = t.dim() > 0 ? t.size(0) : 1;
  const int64_t cols = t.dim() > 1 ? t.size(1) : 1;
  int64_t inner = 1;
  for (int64_t d = 2; d < t.dim(); ++d) inner *= t.size(d);
  return {rows, cols * inner, std::min(block[0], std::max<int64_t>(rows, 1)),
          std::min(block[1], std::max<int64_t>(cols, 1)) * std::max<int64_t>(inner, 1)};
}

inline void check_block_norms(at::TensorList ts, at::IntArrayRef block) {
  constexpr const char* op = "block_norms";
  check_block(op, block);
  for (size_t i = 0; i < ts.size(); ++i) {
    check_floating(op, "ts[" + std::to_string(i) + "]", ts[i]);
  }
}

// Units: a mask of blocks for each of the tensors that `named` says.
inline void check_blocks(const char* op, at::TensorList units, at::TensorList masks,
                         const char* named, at::TensorList ts, at::IntArrayRef block) {
  check_block(op, block);
  TORCH_CHECK(units.size() == ts.size(), op, "(): expected one of units for each of ", ts.size(),
              " ", named, ", got ", units.size());
  check_one_each(op, "mask", masks.size(), ts.size());
  for (size_t i = 0; i < ts.size(); ++i) {
    const std::string at_i = "[" + std::to_string(i) + "]";
    check_floating(op, named + at_i, ts[i]);
    const BlockGrid grid = block_grid(ts[i], block);
    TORCH_CHECK(units[i].scalar_type() == at::kBool &&
                    units[i].sizes() == at::IntArrayRef({grid.down(), grid.across()}) &&
                    units[i].device() == ts[i].device(),
                op, "(): expected units", at_i, " to be bool, of shape [", grid.down(), ", ",
                grid.across(), "] and on ", ts[i].device(), ", got ", units[i].scalar_type(), ", ",
                units[i].sizes(), " and ", units[i].device());
    if (!masks.empty() && masks[i].defined()) {
      check_mask(op, "masks" + at_i, masks[i], named + at_i, ts[i]);
    }
  }
}

// Of one tensor, contiguous.
struct BlockArgs {
  at::Tensor units;
  at::Tensor mask;  // undefined: ones
  Output output;
  // Of block_prune, if fused; else undefined.
  at::Tensor t;
  at::Tensor product;
  BlockGrid grid;

  BlockArgs(const at::Tensor& kept, const at::Tensor& old, const at::Tensor& like,
            at::IntArrayRef block, std::optional<at::ScalarType> dtype)
      : units(kept.contiguous()),
        mask(old.defined() ? old.contiguous() : at::Tensor()),
        output(like, old.defined() ? old.scalar_type() : dtype.value_or(like.scalar_type())),
        grid(block_grid(like, block)) {}

  // Allocates the product if it can be fused.
  void prepare_product(const at::Tensor& with, const FusionRule& fusion) {
    const at::ScalarType mask_dtype = output.out.scalar_type();
    if (!with.is_contiguous() ||
        !fuses(fusion, mask_dtype == with.scalar_type(), is_byte_mask(mask_dtype),
               with.element_size(), mask.defined())) {
      return;
    }
    t = with;
    product = fresh_like(with);
  }
};

// The masks that `write(args)` writes. Device: cpu/util/each.h or cuda/util/each.h.
template <class Device, class Write>
std::vector<at::Tensor> masks_of_blocks(at::TensorList units, const MaskList& masks,
                                        at::TensorList likes, at::IntArrayRef block,
                                        std::optional<at::ScalarType> dtype, const Write& write) {
  const std::vector<at::Tensor> old = to_vector(masks);
  check_blocks("block_masks", units, old, "likes", likes, block);
  if (dtype.has_value()) check_mask_dtype("block_masks", "dtype", *dtype);
  std::vector<at::Tensor> result;
  for (size_t i = 0; i < likes.size(); ++i) {
    const typename Device::Guard guard(likes[i]);
    BlockArgs args(units[i], old.empty() ? at::Tensor() : old[i], likes[i], block, dtype);
    if (likes[i].numel() > 0) write(args);
    result.push_back(args.output.finish());
  }
  return result;
}

// And their products with ts.
template <class Device, class Write>
TensorLists prune_blocks(at::TensorList units, const MaskList& masks, at::TensorList ts,
                         at::IntArrayRef block, const Write& write) {
  const std::vector<at::Tensor> old = to_vector(masks);
  check_blocks("block_prune", units, old, "ts", ts, block);
  TensorLists result;
  auto& [new_masks, products] = result;
  for (size_t i = 0; i < ts.size(); ++i) {
    const typename Device::Guard guard(ts[i]);
    BlockArgs args(units[i], old.empty() ? at::Tensor() : old[i], ts[i], block, std::nullopt);
    if (Device::keeps_bits(ts[i])) args.prepare_product(ts[i], Device::kFusion);
    if (ts[i].numel() > 0) write(args);
    new_masks.push_back(args.output.finish());
    products.push_back(args.product.defined() ? args.product
                                              : Device::masked_mul(ts[i], new_masks.back()));
  }
  return result;
}

}  // namespace fastprune
