// row_masks on CUDA: the kernel for contiguous rows whose keys fit the registers of a block. It
// finds the threshold bit by bit, from the highest on: each step counts the keys under a candidate.
// The last tie that is pruned is found in the same way, by its index. Raw pointers, no torch
// headers.
#pragma once

#include <cstdint>

#include "cuda/topk/row_task.cuh"

namespace fastprune::cuda {

// Keys of a thread.
template <class F>
constexpr int kRowKeys = TopkPolicy::kRowKeyBytes / static_cast<int>(sizeof(typename F::Key));

// Whether the kernel takes a task: rows that are pieces of memory, short enough, with a factor that
// is evenly strided along them, as that of a column or of an entry is.
template <class F, class M>
bool takes_short_rows(const RowTask<F, M>& task) {
  return task.shape.outer == 1 && task.shape.inner <= int64_t{TopkPolicy::kThreads} * kRowKeys<F> &&
         task.factor.broadcast.inner.count <= 1;
}

// Threads of a block that takes rows of `size` entries: the fewest whole warps that have room, a
// power of two of them.
template <class F>
int threads_of_row(int64_t size) {
  int threads = 32;
  while (int64_t{threads} * kRowKeys<F> < size) threads *= 2;
  return threads;
}

// Sums over a block, one after the other, with one barrier each. A slot is cleared while the next
// is in use, after all threads have read it and before any adds to it again.
class BlockSums {
 public:
  static constexpr int kSlots = 3;

  // All threads; the caller has a barrier before the first sum.
  explicit __device__ __forceinline__ BlockSums(unsigned (&slots)[kSlots]) : slots_(slots) {
    if (threadIdx.x < kSlots) slots_[threadIdx.x] = 0;
  }

  __device__ __forceinline__ unsigned operator()(unsigned own) {
    own = warp_sum(own);
    if (blockDim.x == 32) return own;
    if (threadIdx.x % 32 == 0) atomicAdd(&slots_[slot_], own);
    __syncthreads();  // all have added
    const unsigned sum = slots_[slot_];
    const int before = slot_ == 0 ? kSlots - 1 : slot_ - 1;
    if (threadIdx.x == 0) slots_[before] = 0;
    slot_ = slot_ == kSlots - 1 ? 0 : slot_ + 1;
    return sum;
  }

 private:
  unsigned (&slots_)[kSlots];
  int slot_ = 0;
};

template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, kOneBlock)
    short_row_kernel(const RowTask<F, M> task) {
  using Key = typename F::Key;
  constexpr int kKeys = kRowKeys<F>;
  FASTPRUNE_SHARED(unsigned[BlockSums::kSlots], slots);
  BlockSums sum(slots);
  __syncthreads();  // `slots` are cleared
  const auto size = static_cast<int>(task.shape.entries());
  const auto threads = static_cast<int>(blockDim.x);
  const auto thread = static_cast<int>(threadIdx.x);
  const BroadcastDims& along_row = task.factor.broadcast.inner;
  const int64_t step = along_row.count == 0 ? 0 : along_row.stride[0];
  const int bits = bit_width(max_score_key<F>(task.is_signed, task.factor.exists()));
  for (int64_t row = blockIdx.x; row < task.shape.channels; row += gridDim.x) {
    const int64_t first = row * size;
    const int64_t factor = task.factor.exists() ? row * task.factor.broadcast.along : 0;
    Key keys[kKeys];
    unsigned active = 0;
    unsigned zeros = 0;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      keys[j] = kInactive<Key>;
      const int i = thread + j * threads;
      if (i >= size) continue;
      const M old = task.old(first + i);
      zeros += old == M{0};
      if (old != task.one) continue;
      ++active;
      const auto score = load_vec<1>(task.scores + first + i).at[0];
      keys[j] = task.factor.template key_of<F>(score, factor + i * step, task.is_signed);
    }
    const auto count = [&](const auto& is) {
      unsigned own = 0;
#pragma unroll
      for (int j = 0; j < kKeys; ++j) own += is(keys[j], thread + j * threads);
      return static_cast<int>(sum(own));
    };
    active = sum(active);
    zeros = task.mask != nullptr && task.rule.absolute ? sum(zeros) : 0;
    if (task.least_active != nullptr && thread == 0) {
      atomicMin(task.least_active, static_cast<long long>(active));
    }
    const int64_t wanted = task.rule.due(size, zeros, active);
    // The host rejects a larger count.
    const auto due = static_cast<int>(wanted < active ? wanted : active);
    Key threshold = 0;
    int last_tie = -1;
    if (due > 0) {
      int below = 0;
      for (int bit = bits - 1; bit >= 0; --bit) {
        const Key next = threshold | Key{1} << bit;
        const int under = count([&](Key key, int) { return key < next; });
        if (under > due) continue;
        threshold = next;
        below = under;
        if (under == due) break;  // no key at the threshold is pruned
      }
      if (below < due) {
        int least = 0;
        last_tie = size - 1;
        while (least < last_tie) {
          const int middle = (least + last_tie) / 2;
          const int ties = count([&](Key key, int i) { return key == threshold && i <= middle; });
          if (below + ties >= due) {
            last_tie = middle;
          } else {
            least = middle + 1;
          }
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const int i = thread + j * threads;
      if (i >= size) continue;
      const bool pruned = keys[j] < threshold || (keys[j] == threshold && i <= last_tie);
      task.write(first + i, pruned ? M{0} : task.old(first + i));
    }
  }
}

}  // namespace fastprune::cuda
