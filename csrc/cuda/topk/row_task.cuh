// row_masks on CUDA: what a thread reads and writes of a row. Raw pointers, no torch headers.
#pragma once

#include <cstdint>

#include "common/keys.h"
#include "common/mask_operands.h"
#include "common/row.h"
#include "cuda/util/device.cuh"
#include "cuda/util/factor.cuh"
#include "cuda/util/fusion.cuh"
#include "cuda/util/vec.cuh"

namespace fastprune::cuda {

template <class F, class M>
struct RowTask : MaskOperands<F, M> {
  using Bits = typename F::Bits;
  using Key = typename F::Key;

  const Bits* scores;
  DeviceFactor factor;
  ChannelShape shape;
  RowRule rule;
  bool is_signed;
  long long* least_active;  // of all rows; nullptr if nobody asks

  __device__ __forceinline__ M old(int64_t entry) const {
    return this->mask == nullptr ? this->one : load_vec<1>(this->mask + entry).at[0];
  }

  // Of entry i of a row, which is active.
  __device__ __forceinline__ Key key(int64_t row, int64_t i, int64_t entry) const {
    const Bits score = load_vec<1>(scores + entry).at[0];
    if (!factor.exists()) return score_key<F>(score, is_signed);
    const int64_t outer = shape.outer == 1 ? 0 : i / shape.inner;
    const int64_t at = factor.offset(outer, row, i - outer * shape.inner);
    return factor.template key<F>(score, at);
  }

  // fn(i, key) for a thread's share of the active entries of a row.
  template <class Fn>
  __device__ __forceinline__ void for_each_key(int64_t row, const Fn& fn) const {
    for (int64_t i = threadIdx.x; i < shape.entries(); i += TopkPolicy::kThreads) {
      const int64_t entry = row_entry(shape, row, i);
      if (old(entry) == this->one) fn(i, key(row, i, entry));
    }
  }

  __device__ __forceinline__ void write(int64_t entry, M value) const {
    store_vec<1>(this->out + entry, Vec<M, 1>{{value}});
    if constexpr (can_multiply<F, M>(kFusion, /*has_old_mask=*/true)) {
      if (this->product == nullptr) return;
      const Bits t = load_vec<1>(this->t + entry).at[0];
      store_vec<1>(this->product + entry, Vec<Bits, 1>{{product_bits<F, M>(value, t)}});
    }
  }
};

}  // namespace fastprune::cuda
