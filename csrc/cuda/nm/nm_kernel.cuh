// N:M on CUDA: what a thread does with entries of a run, and the kernel for short runs. A thread
// takes a run: its keys stay in registers, and each entry's rank is the number of others that are
// pruned before it. Raw pointers, no torch headers.
#pragma once

#include <cstdint>

#include "common/keys.h"
#include "common/mask_operands.h"
#include "common/nm.h"
#include "cuda/nm/run_access.cuh"
#include "cuda/util/device.cuh"
#include "cuda/util/factor.cuh"
#include "cuda/util/fusion.cuh"

namespace fastprune::cuda {

constexpr int kShortRun = 8;

template <class F, class M>
struct NmTask : MaskOperands<F, M> {
  const typename F::Bits* scores;
  DeviceFactor factor;
  Runs runs;
  NmRule rule;
  bool is_signed;

  // Where the factor for entry j of a run is.
  __device__ __forceinline__ int64_t factor_at(const Runs::Place& place, int j) const {
    return factor.exists() ? factor.offset(place.outer, place.first + j, place.inner) : 0;
  }

  __device__ __forceinline__ typename F::Key key(typename F::Bits score, int64_t factor_at) const {
    return factor.exists() ? factor.template key<F>(score, factor_at)
                           : score_key<F>(score, is_signed);
  }
};

// Entries of the old mask, or ones without one.
template <int N, bool kVec, class F, class M>
__device__ __forceinline__ void load_old_mask(const NmTask<F, M>& task, int64_t entry, int size,
                                              M (&mask)[N]) {
  if (task.mask != nullptr) {
    load_run<M, N, kVec>(task.mask + entry, task.runs.shape.inner, size, mask);
    return;
  }
#pragma unroll
  for (int j = 0; j < N; ++j) mask[j] = task.one;
}

template <int N, bool kVec, class F, class M>
__device__ __forceinline__ void store_mask_and_product(const NmTask<F, M>& task, int64_t entry,
                                                       int size, const M (&mask)[N],
                                                       typename F::Bits (&scores)[N]) {
  using Bits = typename F::Bits;
  const int64_t step = task.runs.shape.inner;
  store_run<M, N, kVec>(task.out + entry, step, size, mask);
  if constexpr (can_multiply<F, M>(kFusion, /*has_old_mask=*/true)) {
    if (task.product == nullptr) return;
    if (task.t != task.scores) load_run<Bits, N, kVec>(task.t + entry, step, size, scores);
#pragma unroll
    for (int j = 0; j < N; ++j) scores[j] = product_bits<F, M>(mask[j], scores[j]);
    store_run<Bits, N, kVec>(task.product + entry, step, size, scores);
  }
}

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
