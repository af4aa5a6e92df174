// A factor of the scores on the device, read in place. Free of torch headers.
#pragma once

#include <cstdint>

#include "common/broadcast.h"
#include "common/scaled.h"
#include "cuda/util/device.cuh"
#include "cuda/util/vec.cuh"

namespace fastprune::cuda {

enum class FactorType : int { kNone, kFloat, kDouble, kScores };

// Of float32, float64 or the dtype of the scores.
struct DeviceFactor {
  const void* values;
  FactorType type;
  Broadcast broadcast;

  __device__ __forceinline__ bool exists() const { return type != FactorType::kNone; }

  // How far the value for an entry of a tensor [outer, channels, inner] is from the first.
  __device__ __forceinline__ int64_t offset(int64_t outer, int64_t channel, int64_t inner) const {
    return broadcast.outer(outer) + channel * broadcast.along + broadcast.inner(inner);
  }

  // The value at an offset, for scores of a format.
  template <class F>
  __device__ __forceinline__ WideOf<F> value(int64_t at) const {
    const auto load = [&](auto of) {
      using T = decltype(of);
      return static_cast<WideOf<F>>(load_vec<1>(static_cast<const T*>(values) + at).at[0]);
    };
    return type == FactorType::kFloat    ? load(float{})
           : type == FactorType::kDouble ? load(double{})
                                         : load(typename F::Value{});
  }

  // The key of a score times that.
  template <class F>
  __device__ __forceinline__ typename F::Key key(typename F::Bits score, int64_t at) const {
    return scaled_key<F>(score, value<F>(at));
  }

  // The same, or without a factor the key of the score alone.
  template <class F>
  __device__ __forceinline__ typename F::Key key_of(typename F::Bits score, int64_t at,
                                                    bool is_signed) const {
    return exists() ? key<F>(score, at) : score_key<F>(score, is_signed);
  }
};

}  // namespace fastprune::cuda
