// N:M on CUDA: the kernel for short runs. A thread takes a run: its keys stay in registers, and
// each entry's rank is the number of others that are pruned before it. Raw pointers, no torch
// headers.
#pragma once

#include <cstdint>

#include "cuda/nm/nm_task.cuh"

namespace fastprune::cuda {

constexpr int kRunInRegisters = 8;  // the longest

// kRun: at least as many entries as a run has. kVec: exactly as many in every run, neighbouring in
// memory and aligned for vectors.
template <class F, class M, int kRun, bool kVec>
__global__ void __launch_bounds__(NmPolicy::kThreads, kOneBlock)
    nm_kernel(const NmTask<F, M> task) {
  using Bits = typename F::Bits;
  using Key = typename F::Key;
  const Runs& runs = task.runs;
  const int64_t step = runs.shape.inner;
  const int64_t count = runs.count();
  const int64_t stride = int64_t{gridDim.x} * NmPolicy::kThreads;
  for (int64_t number = int64_t{blockIdx.x} * NmPolicy::kThreads + threadIdx.x; number < count;
       number += stride) {
    const Runs::Place place = kVec && !task.factor.exists()
                                  ? Runs::Place{0, 0, 0, kRun, number * kRun}
                                  : runs.place(number, task.rule.run);
    const int size = kVec ? kRun : place.size;
    Bits scores[kRun];
    M mask[kRun];
    load_run<Bits, kRun, kVec>(task.scores + place.entry, step, size, scores);
    load_old_mask<kRun, kVec>(task, place.entry, size, mask);
    Key keys[kRun];
    int zeros = 0;
    const int64_t factor = task.factor_at(place, 0);
#pragma unroll
    for (int j = 0; j < kRun; ++j) {
      keys[j] = kInactive<Key>;
      if (j >= size) continue;
      zeros += mask[j] == M{0};
      if (mask[j] != task.one) continue;
      keys[j] = task.key(scores[j], factor + j * task.factor.broadcast.along);
    }
    const int due = task.rule.due(size, zeros);
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      int before = 0;
#pragma unroll
      for (int j = 0; j < kRun; ++j) {
        before += j < i ? keys[j] <= keys[i] : j > i ? keys[j] < keys[i] : 0;
      }
      if (before < due && keys[i] != kInactive<Key>) mask[i] = M{0};
    }
    store_mask_and_product<kRun, kVec>(task, place.entry, size, mask, scores);
  }
}

}  // namespace fastprune::cuda
