// row_masks on CUDA: the kernel for long rows. A block takes a row: radix passes over its keys,
// then the tie rule, then one pass that writes. Raw pointers, no torch headers.
#pragma once

#include <cstdint>

#include "cuda/topk/radix_pass.cuh"
#include "cuda/topk/row_task.cuh"
#include "cuda/util/ties.cuh"

namespace fastprune::cuda {

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
    task.write(entry, value);
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
