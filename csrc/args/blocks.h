// Arguments of block_norms, block_masks and block_prune: checked first, then prepared in the one
// form that the kernels take.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "args/common.h"
#include "args/list.h"
#include "common/block_grid.h"
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

struct BlockArgs;

struct BlockList {
  using Args = BlockArgs;

  const char* op;
  const char* named;  // the argument that `likes` are
  at::TensorList units;
  std::vector<at::Tensor> masks;  // undefined where there are none, or empty
  at::TensorList likes;
  at::IntArrayRef block;
  std::optional<at::ScalarType> dtype;
};

inline void check(const BlockList& list) {
  const auto& [op, named, units, masks, likes, block, dtype] = list;
  check_block(op, block);
  TORCH_CHECK(units.size() == likes.size(), op, "(): expected one of units for each of ",
              likes.size(), " ", named, ", got ", units.size());
  check_one_each(op, "mask", masks.size(), likes.size());
  for (size_t i = 0; i < likes.size(); ++i) {
    const std::string at_i = "[" + std::to_string(i) + "]";
    check_floating(op, named + at_i, likes[i]);
    const BlockGrid grid = block_grid(likes[i], block);
    TORCH_CHECK(units[i].scalar_type() == at::kBool &&
                    units[i].sizes() == at::IntArrayRef({grid.down(), grid.across()}) &&
                    units[i].device() == likes[i].device(),
                op, "(): expected units", at_i, " to be bool, of shape [", grid.down(), ", ",
                grid.across(), "] and on ", likes[i].device(), ", got ", units[i].scalar_type(),
                ", ", units[i].sizes(), " and ", units[i].device());
    if (!masks.empty() && masks[i].defined()) {
      check_mask(op, "masks" + at_i, masks[i], named + at_i, likes[i]);
    }
  }
  if (dtype.has_value()) check_mask_dtype(op, "dtype", *dtype);
}

// Of one tensor, contiguous.
struct BlockArgs : MaskArgs {
  at::Tensor units;
  BlockGrid grid;

  BlockArgs(const BlockList& list, size_t i)
      : MaskArgs(list.likes[i], at_or_none(list.masks, i), list.dtype),
        units(list.units[i].contiguous()),
        grid(block_grid(list.likes[i], list.block)) {}
};

template <class Device, auto kWrite>
std::vector<at::Tensor> block_masks(at::TensorList units, const OptionalTensorList& masks,
                                    at::TensorList likes, at::IntArrayRef block,
                                    std::optional<at::ScalarType> dtype) {
  return masks_of_list<Device>(
      BlockList{"block_masks", "likes", units, to_vector(masks), likes, block, dtype}, kWrite);
}

template <class Device, auto kWrite>
TensorLists block_prune(at::TensorList units, const OptionalTensorList& masks, at::TensorList ts,
                        at::IntArrayRef block) {
  return prune_list<Device>(
      BlockList{"block_prune", "ts", units, to_vector(masks), ts, block, std::nullopt}, ts, kWrite);
}

}  // namespace fastprune
