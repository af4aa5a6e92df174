// masked_mul by ATen's operators, as torch.nn.utils.prune multiplies: for what the kernels do not
// take.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/mul.h>

#include <optional>
#include <vector>

#include "args/common.h"
#include "args/mask_kind.h"
#include "common/dtypes.h"

namespace fastprune {

// Whether a kernel takes the pair: strided, of dtypes it knows, and of one shape. Shapes that do
// not even broadcast go to the kernel too, as its error names the argument.
inline bool is_native_pair(const at::Tensor& t, const at::Tensor& mask) {
  return is_native_float(t.scalar_type()) && is_mask_dtype(mask.scalar_type()) &&
         t.layout() == at::kStrided && mask.layout() == at::kStrided &&
         (t.sizes() == mask.sizes() || !at::are_expandable(t.sizes(), mask.sizes()));
}

inline bool are_native_pairs(at::TensorList ts, at::TensorList masks) {
  if (ts.size() != masks.size()) return true;  // the kernel's error, too
  for (size_t i = 0; i < ts.size(); ++i) {
    if (!is_native_pair(ts[i], masks[i])) return false;
  }
  return true;
}

inline at::Tensor aten_masked_mul(const at::Tensor& t, const at::Tensor& mask) {
  return at::mul(mask.to(t.scalar_type()), t);
}

inline void aten_masked_mul_(at::Tensor& t, const at::Tensor& mask) {
  t.mul_(mask.to(t.scalar_type()));
}

inline std::vector<at::Tensor> aten_masked_muls(at::TensorList ts, at::TensorList masks) {
  check_lengths("masked_muls", ts, masks);  // tracing and batching call this first
  std::vector<at::Tensor> products;
  products.reserve(ts.size());
  for (size_t i = 0; i < ts.size(); ++i) products.push_back(aten_masked_mul(ts[i], masks[i]));
  return products;
}

// The bool mask that a packed one of a tensor of these sizes stands for.
inline at::Tensor unpacked(const at::Tensor& bits, c10::SymIntArrayRef sizes) {
  const RowsAndCols shape = rows_and_cols(sizes);
  const at::Tensor shifts = at::arange(8, bits.options());
  return bits.contiguous()
      .unsqueeze(-1)
      .bitwise_right_shift(shifts)
      .bitwise_and(1)
      .to(at::kBool)
      .view_symint({shape.rows, bits.sym_size(1) * 8})
      .narrow_symint(1, 0, shape.cols)
      .contiguous()  // as a view is what every device has, unlike what reshape calls
      .view_symint(sizes);
}

// Sets entries to 0 where `kept` is false; of a sparse tensor those that it has.
inline void aten_zero_pruned_(at::Tensor& t, const at::Tensor& kept) {
  if (t.layout() != at::kSparse) {
    t.masked_fill_(kept.logical_not(), 0);
    return;
  }
  c10::List<std::optional<at::Tensor>> at_entries;
  for (const at::Tensor& index : t._indices().unbind(0)) at_entries.push_back(index);
  t._values().masked_fill_(kept.index(at_entries).logical_not(), 0);
}

// The same for masks of any kind that masked_muls_ takes.
inline void aten_apply_mask_(const at::Tensor& t, const at::Tensor& mask) {
  at::Tensor self = t;
  switch (mask_kind(t, mask)) {
    case MaskKind::kFactor:
      return aten_masked_mul_(self, mask);
    case MaskKind::kBool:
      return aten_zero_pruned_(self, mask);
    case MaskKind::kPacked:
      return aten_zero_pruned_(self, unpacked(mask, t.sym_sizes()));
  }
}

inline void aten_masked_muls_(at::TensorList ts, at::TensorList masks) {
  check_masked_muls_(ts, masks);
  for (size_t i = 0; i < ts.size(); ++i) aten_apply_mask_(ts[i], masks[i]);
}

}  // namespace fastprune
