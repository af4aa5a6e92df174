// N:M on CUDA: the kernel for long runs. Neighbouring threads share a run, each with a few entries
// in registers, and compare these with all keys of the run in shared memory. Raw pointers, no torch
// headers.
#pragma once

#include <cstdint>

#include "cuda/nm/nm_task.cuh"

namespace fastprune::cuda {

constexpr int kShare = 4;  // entries of a thread
static_assert(NmPolicy::kThreads * kShare >= kMostRun, "a block takes the longest run");

// How a block takes runs of so many entries.
FASTPRUNE_HD int threads_of_run(int run) {
  return ceil_div(run, kShare);
}

FASTPRUNE_HD int runs_of_block(int run) {
  return NmPolicy::kThreads / threads_of_run(run);
}

// The key of an entry that was pruned before. Like kInactive above that of any score.
template <class Key>
constexpr Key kPrunedBefore = kInactive<Key> - 1;

// kVec: shares are whole, neighbouring in memory and aligned for vectors.
template <class F, class M, bool kVec>
__global__ void __launch_bounds__(NmPolicy::kThreads, kOneBlock)
    nm_long_run_kernel(const NmTask<F, M> task) {
  using Bits = typename F::Bits;
  using Key = typename F::Key;
  FASTPRUNE_SHARED(Key[NmPolicy::kThreads * (kShare + 1)], keys);
  const Runs& runs = task.runs;
  const int64_t step = runs.shape.inner;
  const int64_t count = runs.count();
  const int threads = threads_of_run(task.rule.run);
  const int together = runs_of_block(task.rule.run);
  // Threads of a warp take neighbours in memory: of a run, or the same entries of several.
  const int thread = static_cast<int>(threadIdx.x);
  const int run = step == 1 ? thread / threads : thread % together;
  const int first = (step == 1 ? thread % threads : thread / together) * kShare;
  const int pitch = threads * kShare + 1;  // odd, so that runs begin in different banks
  for (int64_t base = int64_t{blockIdx.x} * together; base < count;
       base += int64_t{gridDim.x} * together) {
    Runs::Place place{};
    int left = 0;  // of the thread's entries
    if (run < together && base + run < count) {
      place = runs.place(base + run, task.rule.run);
      left = place.size - first;
    }
    const int64_t entry = place.entry + first * step;
    Bits scores[kShare];
    M mask[kShare];
    Key own[kShare];
    if (left > 0) {
      load_run<Bits, kShare, kVec>(task.scores + entry, step, left, scores);
      load_old_mask<kShare, kVec>(task, entry, left, mask);
      const int64_t factor = task.factor_at(place, first);
#pragma unroll
      for (int e = 0; e < kShare; ++e) {
        own[e] = kInactive<Key>;
        if (e < left && mask[e] == M{0}) own[e] = kPrunedBefore<Key>;
        if (e < left && mask[e] == task.one) {
          own[e] = task.key(scores[e], factor + e * task.factor.broadcast.along);
        }
        keys[run * pitch + first + e] = own[e];
      }
    }
    __syncthreads();  // `keys` are written
    if (left > 0) {
      int before[kShare] = {};
      int zeros = 0;
      for (int share = 0; share < place.size; share += kShare) {
        // Keys under a bound are pruned before: for a lower index `<=`, for a higher one `<`.
        Key if_earlier[kShare];  // for keys at an earlier position of their share than e
        Key otherwise[kShare];
#pragma unroll
        for (int e = 0; e < kShare; ++e) {
          if_earlier[e] = own[e] + static_cast<Key>(share <= first);
          otherwise[e] = own[e] + static_cast<Key>(share < first);
        }
#pragma unroll
        for (int j = 0; j < kShare; ++j) {
          const Key other = keys[run * pitch + share + j];
          zeros += other == kPrunedBefore<Key>;
#pragma unroll
          for (int e = 0; e < kShare; ++e)
            before[e] += other < (j < e ? if_earlier[e] : otherwise[e]);
        }
      }
      const int due = task.rule.due(place.size, zeros);
#pragma unroll
      for (int e = 0; e < kShare; ++e) {
        if (before[e] < due && own[e] < kPrunedBefore<Key>) mask[e] = M{0};
      }
      store_mask_and_product<kShare, kVec>(task, entry, left, mask, scores);
    }
    __syncthreads();  // `keys` may be written again
  }
}

}  // namespace fastprune::cuda
