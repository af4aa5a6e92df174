// The arguments of masked_muls_ as its kernels take them.
#pragma once

#include <ATen/MemoryOverlap.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "args/elementwise.h"
#include "args/mask_kind.h"
#include "common/packed.h"
#include "dispatch/fallback.h"

namespace fastprune {

// A tensor that a kernel changes in place, and its mask. A mask of kPacked is contiguous, as is its
// tensor; all others are dense and have the strides of the tensor.
struct MaskedPair {
  MaskKind kind;
  at::Tensor t;
  at::Tensor mask;
  PackedRows rows;    // if kPacked
  at::Tensor origin;  // if t is a dense copy: the tensor it is copied to afterwards
};

inline MaskedPair to_masked_pair(const at::Tensor& t, const at::Tensor& mask) {
  MaskKind kind = mask_kind(t, mask);
  if (kind == MaskKind::kPacked && t.is_contiguous()) {
    const int64_t rows = mask.size(0);
    const PackedRows shape = packed_rows(rows, rows == 0 ? 0 : t.numel() / rows);
    return {kind, t, mask.contiguous(), shape, at::Tensor()};
  }
  const bool packed = kind == MaskKind::kPacked;
  if (packed) kind = MaskKind::kBool;
  const SameLayout flat = to_same_layout(t, packed ? unpacked(mask, t.sym_sizes()) : mask);
  return {kind, flat.first, flat.second, {}, flat.first.is_same(t) ? at::Tensor() : t};
}

// Whether kernels take the pair, whose shapes have been checked.
inline bool is_native_masked_pair(const at::Tensor& t, const at::Tensor& mask) {
  return is_native_float(t.scalar_type()) && t.layout() == at::kStrided &&
         is_mask_dtype(mask.scalar_type()) && mask.layout() == at::kStrided;
}

// The memory from the first to the last entry of a strided tensor.
struct MemoryRange {
  const char* begin;
  const char* end;
  bool written;

  MemoryRange(const at::Tensor& t, bool is_written)
      : begin(static_cast<const char*>(t.const_data_ptr())), end(begin), written(is_written) {
    if (t.numel() == 0) return;
    int64_t last = 0;
    for (int64_t dim = 0; dim < t.dim(); ++dim) last += (t.size(dim) - 1) * t.stride(dim);
    end += (last + 1) * static_cast<int64_t>(t.element_size());
  }
};

// Whether one pair may write what another reads or writes: a tensor that is listed twice, views.
inline bool may_share_memory(at::TensorList ts, at::TensorList masks) {
  std::vector<MemoryRange> ranges;
  ranges.reserve(2 * ts.size());
  for (size_t i = 0; i < ts.size(); ++i) {
    ranges.emplace_back(ts[i], true);
    ranges.emplace_back(masks[i], false);
  }
  const auto before = [](const auto& a, const auto& b) { return a.begin < b.begin; };
  std::sort(ranges.begin(), ranges.end(), before);
  const char* read_or_written = nullptr;  // up to here, by the ranges before
  const char* written = nullptr;
  for (const MemoryRange& range : ranges) {
    if (range.begin == range.end) continue;
    if (range.begin < (range.written ? read_or_written : written)) return true;
    read_or_written = std::max(read_or_written, range.end);
    if (range.written) written = std::max(written, range.end);
  }
  return false;
}

// masked_muls_ on tensors of one type of device: run(ts, masks) takes the native pairs of a list of
// which no pair writes to the memory of another.
template <class Run>
void masked_muls_by(at::TensorList ts, at::TensorList masks, const Run& run) {
  check_masked_muls_(ts, masks);
  std::vector<at::Tensor> native_ts;
  std::vector<at::Tensor> native_masks;
  std::vector<size_t> others;
  for (size_t i = 0; i < ts.size(); ++i) {
    if (is_native_masked_pair(ts[i], masks[i])) {
      at::assert_no_internal_overlap(ts[i]);
      native_ts.push_back(ts[i]);
      native_masks.push_back(masks[i]);
    } else {
      others.push_back(i);
    }
  }
  if (may_share_memory(native_ts, native_masks)) {
    for (size_t i = 0; i < native_ts.size(); ++i) {
      run(at::TensorList(native_ts[i]), at::TensorList(native_masks[i]));
    }
  } else {
    run(native_ts, native_masks);
  }
  for (const size_t i : others) aten_apply_mask_(ts[i], masks[i]);
}

// Where a pair was changed in a copy.
inline void copy_back(const std::vector<MaskedPair>& pairs) {
  for (const MaskedPair& pair : pairs) {
    if (pair.origin.defined()) pair.origin.copy_(pair.t);
  }
}

}  // namespace fastprune
