// row_masks on CUDA: the kernel. A block takes a row: radix passes over its keys, then the tie
// rule, then one pass that writes. Raw pointers, no torch headers.
#pragma once

#include <cstdint>

#include "common/keys.h"
#include "common/mask_operands.h"
#include "common/row.h"
#include "cuda/topk/radix_pass.cuh"
#include "cuda/util/device.cuh"
#include "cuda/util/factor.cuh"
#include "cuda/util/fusion.cuh"
#include "cuda/util/ties.cuh"
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
};

// How many entries of a row are zero already, in all threads of the block.
template <class F, class M>
__device__ __forceinline__ int64_t zeros_of_row(const RowTask<F, M>& task, int64_t row) {
  FASTPRUNE_SHARED(unsigned, zeros);
  if (threadIdx.x == 0) zeros = 0;
  __syncthreads();
  unsigned own = 0;
  for (int64_t i = threadIdx.x; i < task.shape.entries(); i += TopkPolicy::kThreads) {
    own += task.old(row_entry(task.shape, row, i)) == M{0};
  }
  own = warp_sum(own);
  if (threadIdx.x % 32 == 0) atomicAdd(&zeros, own);
  __syncthreads();
  return zeros;
}

template <class F, class M>
__device__ __forceinline__ void write_row(const RowTask<F, M>& task, int64_t row,
                                          typename F::Key threshold, int64_t last_tie) {
  for (int64_t i = threadIdx.x; i < task.shape.entries(); i += TopkPolicy::kThreads) {
    const int64_t entry = row_entry(task.shape, row, i);
    M value = task.old(entry);
    if (value == task.one) {
      const typename F::Key key = task.key(row, i, entry);
      if (key < threshold || (key == threshold && i <= last_tie)) value = M{0};
    }
    store_vec<1>(task.out + entry, Vec<M, 1>{{value}});
    if constexpr (can_multiply<F, M>(kFusion, /*has_old_mask=*/true)) {
      if (task.product == nullptr) continue;
      const typename F::Bits t = load_vec<1>(task.t + entry).at[0];
      store_vec<1>(task.product + entry, Vec<typename F::Bits, 1>{{product_bits<F, M>(value, t)}});
    }
  }
}

template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    row_kernel(const RowTask<F, M> task) {
  using Key = typename F::Key;
  FASTPRUNE_SHARED(int64_t, last_tie);
  const int64_t size = task.shape.entries();
  const Key highest = max_score_key<F>(task.is_signed, task.factor.exists());
  for (int64_t row = blockIdx.x; row < task.shape.channels; row += gridDim.x) {
    const bool asks = task.mask != nullptr && task.rule.absolute;
    const int64_t zeros = asks ? zeros_of_row(task, row) : 0;
    const Bracket<Key> found = radix_select_in_block(
        Bracket<Key>{0, highest, 0, 0, 0},
        [&](const auto& bin_of, unsigned* bins) {
          task.for_each_key(row, [&](int64_t, Key key) { count_key(bin_of, key, bins); });
        },
        [&](long long active) {
          if (task.least_active != nullptr && threadIdx.x == 0) {
            atomicMin(task.least_active, active);
          }
          const int64_t due = task.rule.due(size, zeros, active);
          return due < active ? due : int64_t{active};  // the host rejects a larger count
        });
    if (threadIdx.x == 0) last_tie = found.rank == 0 ? -1 : size;
    __syncthreads();
    if (found.rank < found.inside) {
      const auto is_tie = [&](int64_t i) {
        const int64_t entry = row_entry(task.shape, row, i);
        return task.old(entry) == task.one && task.key(row, i, entry) == found.lo;
      };
      find_tie<TopkPolicy::kThreads>(size, found.rank, is_tie, [&](int64_t i) { last_tie = i; });
      __syncthreads();
    }
    write_row(task, row, found.lo, last_tie);  // the next selection has a barrier
  }
}

}  // namespace fastprune::cuda
