// N:M on CUDA: what a thread does with entries of a run. Raw pointers, no torch headers.
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

  // Where the factor for entry j of a run is.
  __device__ __forceinline__ int64_t factor_at(const Runs::Place& place, int j) const {
    return factor.exists() ? factor.offset(place.outer, place.first + j, place.inner) : 0;
  }

  __device__ __forceinline__ typename F::Key key(typename F::Bits score, int64_t factor_at) const {
    return factor.template key_of<F>(score, factor_at, is_signed);
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

}  // namespace fastprune::cuda
