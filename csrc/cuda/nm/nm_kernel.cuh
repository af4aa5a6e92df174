// N:M on CUDA: the kernel. A thread takes a run: its keys stay in registers, and each entry's rank
// is the number of others that are pruned before it. Raw pointers, no torch headers.
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

template <class F, class M>
struct NmTask : MaskOperands<F, M> {
  const typename F::Bits* scores;
  DeviceFactor factor;
  Runs runs;
  NmRule rule;
  bool is_signed;
};

// kRun: at least as many entries as a run has. kVec: exactly as many in every run, neighbouring in
// memory and aligned for vectors.
template <class F, class M, int kRun, bool kVec>
__global__ void __launch_bounds__(NmPolicy::kThreads, kOneBlock)
    nm_kernel(const NmTask<F, M> task) {
  using Bits = typename F::Bits;
  using Key = typename F::Key;
  constexpr int kUnroll = unroll(kRun);
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
    if (task.mask != nullptr) {
      load_run<M, kRun, kVec>(task.mask + place.entry, step, size, mask);
    } else {
      constexpr int kUnroll = unroll(kRun);
#pragma unroll kUnroll
      for (int j = 0; j < kRun; ++j) mask[j] = task.one;
    }
    Key keys[kRun];
    int zeros = 0;
    const int64_t factor =
        task.factor.exists() ? task.factor.offset(place.outer, place.first, place.inner) : 0;
#pragma unroll kUnroll
    for (int j = 0; j < kRun; ++j) {
      keys[j] = kInactive<Key>;
      if (j >= size) continue;
      zeros += mask[j] == M{0};
      if (mask[j] != task.one) continue;
      keys[j] = task.factor.exists() ? task.factor.template key<F>(
                                           scores[j], factor + j * task.factor.broadcast.along)
                                     : score_key<F>(scores[j], task.is_signed);
    }
    const int due = task.rule.due(size, zeros);
#pragma unroll kUnroll
    for (int i = 0; i < kRun; ++i) {
      int before = 0;
#pragma unroll kUnroll
      for (int j = 0; j < kRun; ++j) {
        before += j < i ? keys[j] <= keys[i] : j > i ? keys[j] < keys[i] : 0;
      }
      if (before < due && keys[i] != kInactive<Key>) mask[i] = M{0};
    }
    store_run<M, kRun, kVec>(task.out + place.entry, step, size, mask);
    if constexpr (can_multiply<F, M>(kFusion, /*has_old_mask=*/true)) {
      if (task.product == nullptr) continue;
      if (task.t != task.scores) {
        load_run<Bits, kRun, kVec>(task.t + place.entry, step, size, scores);
      }
#pragma unroll kUnroll
      for (int j = 0; j < kRun; ++j) scores[j] = product_bits<F, M>(mask[j], scores[j]);
      store_run<Bits, kRun, kVec>(task.product + place.entry, step, size, scores);
    }
  }
}

}  // namespace fastprune::cuda
