// Scores times a factor on the device, multiplied as they are loaded. Free of torch headers.
#pragma once

#include <cstdint>

#include "common/broadcast.h"
#include "common/scaled.h"
#include "cuda/util/device.cuh"
#include "cuda/util/factor.cuh"
#include "cuda/util/vec.cuh"

namespace fastprune::cuda {

// Of one tensor, in device memory. Entries are numbered in logical order.
struct ScaledSource {
  const void* scores;
  int format;       // which of the sources of a format Scaled
  bool vectorized;  // the scores are aligned for vectors
  DeviceFactor factor;
};

// How far the values for neighbouring entries are from the first of the factor.
class FactorOffsets {
 public:
  __device__ __forceinline__ FactorOffsets(const BroadcastDims& dims, int64_t at)
      : dims_(dims), at_(at), first_(dims(at)) {
    if (dims.count == 0) return;
    step_ = dims.stride[dims.count - 1];
    const int64_t size = dims.size[dims.count - 1];
    left_ = dims.count == 1 ? size : size - at % size;
  }

  // Of the entry `by` further on: within one row of the last dim, there is nothing to divide.
  __device__ __forceinline__ int64_t operator()(int by) const {
    return by < left_ ? first_ + by * step_ : dims_.count == 0 ? 0 : dims_(at_ + by);
  }

 private:
  const BroadcastDims& dims_;
  int64_t at_;
  int64_t first_;
  int64_t step_ = 0;
  int64_t left_ = 0;
};

// The bits of N products from an entry on, of which `left` are there, at least one. The others are
// those of any entry.
template <class S, int N, class Bits>
__device__ __forceinline__ void load_products(const ScaledSource& source, int64_t at, int left,
                                              Vec<Bits, N>& bits) {
  const auto scores = load_some<N>(static_cast<const typename S::Bits*>(source.scores) + at, left,
                                   source.vectorized)
                          .unpack();
  if (!source.factor.exists()) {
#pragma unroll
    for (int e = 0; e < N; ++e) bits.at[e] = scaled_key<S>(scores.at[e], 1);
    return;
  }
  const FactorOffsets offset(source.factor.broadcast.inner, at);
#pragma unroll
  for (int e = 0; e < N; ++e) {
    bits.at[e] = source.factor.template key<S>(scores.at[e], offset(e < left ? e : left - 1));
  }
}

template <int N, class Wide, class... Sources>
__device__ __forceinline__ Packed<typename Wide::Bits, N> load_scaled(Scaled<Wide, Sources...>,
                                                                      const void* item, int64_t at,
                                                                      int left) {
  const auto& source = *static_cast<const ScaledSource*>(item);
  Vec<typename Wide::Bits, N> bits;
  int format = 0;
  const auto load_if = [&](auto of) {
    if (source.format == format++) load_products<decltype(of), N>(source, at, left, bits);
  };
  (load_if(Sources{}), ...);
  return pack(bits);
}

}  // namespace fastprune::cuda
