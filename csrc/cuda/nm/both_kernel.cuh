// 2:4 both ways on CUDA: the kernel. A thread takes a square and keeps it in registers. Raw
// pointers, no torch headers.
#pragma once

#include <cstdint>

#include "common/mask_operands.h"
#include "common/nm_both.h"
#include "cuda/nm/run_access.cuh"
#include "cuda/util/device.cuh"
#include "cuda/util/factor.cuh"
#include "cuda/util/fusion.cuh"

namespace fastprune::cuda {

template <class F, class M>
struct BothTask : MaskOperands<F, M> {
  const typename F::Bits* scores;
  DeviceFactor factor;
  Squares squares;
  bool is_signed;
};

template <class F, class M>
__device__ __forceinline__ double score_in_square(const BothTask<F, M>& task,
                                                  const Squares::Place& place, int row, int column,
                                                  typename F::Bits score) {
  if (!task.factor.exists()) return both_score<F>(score, task.is_signed);
  const int64_t factor = task.factor.offset(place.row + row, place.column + column, place.inner);
  return both_scaled_score<F>(score, task.factor.template value<F>(factor));
}

// kVec: the rows of squares are neighbouring in memory and aligned for vectors.
template <class F, class M, bool kVec>
__global__ void __launch_bounds__(NmPolicy::kThreads, kOneBlock)
    nm_both_kernel(const BothTask<F, M> task) {
  using Bits = typename F::Bits;
  const Squares& squares = task.squares;
  const int64_t across = squares.row_step();
  const int64_t step = squares.shape.inner;
  const int64_t count = squares.count();
  const int64_t stride = int64_t{gridDim.x} * NmPolicy::kThreads;
  for (int64_t number = int64_t{blockIdx.x} * NmPolicy::kThreads + threadIdx.x; number < count;
       number += stride) {
    const Squares::Place place = squares.place(number);
    Bits entries[kSide][kSide];
    double scores[kSquare];
#pragma unroll
    for (int r = 0; r < kSide; ++r) {
      load_run<Bits, kSide, kVec>(task.scores + place.entry + r * across, step, kSide, entries[r]);
#pragma unroll
      for (int c = 0; c < kSide; ++c) {
        scores[r * kSide + c] = score_in_square(task, place, r, c, entries[r][c]);
      }
    }
    const int64_t kept = BestPattern::of([&](int e) { return scores[e]; });
#pragma unroll
    for (int r = 0; r < kSide; ++r) {
      const int64_t row = place.entry + r * across;
      M mask[kSide];
#pragma unroll
      for (int c = 0; c < kSide; ++c) {
        mask[c] = (kept >> (kSquare - 1 - r * kSide - c) & 1) != 0 ? task.one : M{0};
      }
      store_run<M, kSide, kVec>(task.out + row, step, kSide, mask);
      if constexpr (can_multiply<F, M>(kFusion, /*has_old_mask=*/false)) {
        if (task.product == nullptr) continue;
        if (task.t != task.scores) {
          load_run<Bits, kSide, kVec>(task.t + row, step, kSide, entries[r]);
        }
#pragma unroll
        for (int c = 0; c < kSide; ++c) {
          entries[r][c] = product_bits<F, M>(mask[c], entries[r][c]);
        }
        store_run<Bits, kSide, kVec>(task.product + row, step, kSide, entries[r]);
      }
    }
  }
}

}  // namespace fastprune::cuda
