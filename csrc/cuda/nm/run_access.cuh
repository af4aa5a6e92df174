// N:M on CUDA: a run of entries from memory to registers and back. Raw pointers, no torch headers.
#pragma once

#include <cstdint>

#include "cuda/util/device.cuh"
#include "cuda/util/vec.cuh"

namespace fastprune::cuda {

// Entries of a run, in registers. A run of up to kRun entries; whole and neighbouring in memory if
// kVec.
template <class T, int kRun, bool kVec>
__device__ __forceinline__ void load_run(const T* from, int64_t step, int size, T (&run)[kRun]) {
  if constexpr (kVec) {
    constexpr int kEach = vec_entries<T>() < kRun ? vec_entries<T>() : kRun;
#pragma unroll
    for (int j = 0; j < kRun; j += kEach) {
      const Vec<T, kEach> vec = load_vec<kEach>(from + j);
#pragma unroll
      for (int e = 0; e < kEach; ++e) run[j + e] = vec.at[e];
    }
  } else {
#pragma unroll
    for (int j = 0; j < kRun; ++j) {
      run[j] = j < size ? load_vec<1>(from + j * step).at[0] : T{0};
    }
  }
}

template <class T, int kRun, bool kVec>
__device__ __forceinline__ void store_run(T* to, int64_t step, int size, const T (&run)[kRun]) {
  if constexpr (kVec) {
    constexpr int kEach = vec_entries<T>() < kRun ? vec_entries<T>() : kRun;
#pragma unroll
    for (int j = 0; j < kRun; j += kEach) {
      Vec<T, kEach> vec;
#pragma unroll
      for (int e = 0; e < kEach; ++e) vec.at[e] = run[j + e];
      store_vec<kEach>(to + j, vec);
    }
  } else {
#pragma unroll
    for (int j = 0; j < kRun; ++j) {
      if (j < size) store_vec<1>(to + j * step, Vec<T, 1>{{run[j]}});
    }
  }
}

}  // namespace fastprune::cuda
