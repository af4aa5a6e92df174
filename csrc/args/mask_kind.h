// The masks that masked_muls_ takes, told apart by dtype and shape; and the check of its arguments,
// which any tensors can be asked: subclasses, batched tensors, symbolic sizes.
#pragma once

#include <ATen/core/Tensor.h>

#include "args/common.h"
#include "common/packed.h"

namespace fastprune {

enum class MaskKind {
  kFactor,  // of the tensor's shape and any dtype but bool: t is multiplied by it
  kBool,    // of the tensor's shape: t is set to 0 where it is false
  kPacked,  // the same with one bit an entry, see common/packed.h
};

struct RowsAndCols {
  c10::SymInt rows;
  c10::SymInt cols;
};

// A tensor of these sizes as the matrix whose rows are packed: flatten(1), a vector is one row.
inline RowsAndCols rows_and_cols(c10::SymIntArrayRef sizes) {
  RowsAndCols shape{1, 1};
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    (dim == 0 && sizes.size() > 1 ? shape.rows : shape.cols) *= sizes[dim];
  }
  return shape;
}

// A uint8 mask may have the shape of t and that of a packed one, if there is one column. It is then
// read as packed: for 0 and 1 that is the mask itself.
inline MaskKind mask_kind(const at::Tensor& t, const at::Tensor& mask) {
  if (mask.scalar_type() == at::kBool) return MaskKind::kBool;
  if (mask.scalar_type() != at::kByte || mask.dim() != 2) return MaskKind::kFactor;
  const RowsAndCols shape = rows_and_cols(t.sym_sizes());
  const bool packed =
      mask.sym_size(0) == shape.rows && mask.sym_size(1) == packed_bytes(shape.cols);
  return packed ? MaskKind::kPacked : MaskKind::kFactor;
}

inline void check_masked_muls_(at::TensorList ts, at::TensorList masks) {
  constexpr const char* op = "masked_muls_";
  check_lengths(op, ts, masks);
  for (size_t i = 0; i < ts.size(); ++i) {
    const at::Tensor& t = ts[i];
    const at::Tensor& mask = masks[i];
    const MaskKind kind = mask_kind(t, mask);
    if (kind != MaskKind::kPacked && mask.sym_sizes() != t.sym_sizes()) {
      const RowsAndCols shape = rows_and_cols(t.sym_sizes());
      TORCH_CHECK(false, op, "(): expected masks[", i, "] to have the shape of ts[", i, "], ",
                  t.sym_sizes(), ", or to be uint8 of shape [", shape.rows, ", ",
                  packed_bytes(shape.cols), "] (packed), got ", mask.scalar_type(), " of shape ",
                  mask.sym_sizes());
    }
    TORCH_CHECK(t.device() == mask.device(), op, "(): expected masks[", i,
                "] to be on the device of ts[", i, "], ", t.device(), ", got ", mask.device());
    if (kind == MaskKind::kFactor) continue;
    TORCH_CHECK(t.layout() == at::kStrided || t.layout() == at::kSparse, op, "(): expected ts[", i,
                "] to be strided or sparse_coo for a mask of ", mask.scalar_type(), ", got ",
                t.layout());
    TORCH_CHECK(mask.layout() == at::kStrided, op, "(): expected masks[", i,
                "] to be strided, got ", mask.layout());
  }
}

}  // namespace fastprune
