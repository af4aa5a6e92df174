// Keys of scores times a factor, which is read by its strides, some entries at a time.
#pragma once

#include <algorithm>
#include <cstdint>

#include "args/factor.h"
#include "common/dtypes.h"
#include "common/scaled.h"
#include "cpu/util/multiversion.h"

namespace fastprune::cpu {

template <class F>
FASTPRUNE_MULTIVERSION void set_scaled_keys(const typename F::Bits* __restrict__ scores,
                                            const WideOf<F>* __restrict__ factor,
                                            typename F::Key* __restrict__ keys, int32_t n) {
  for (int32_t i = 0; i < n; ++i) keys[i] = scaled_key<F>(scores[i], factor[i]);
}

template <class Wide, class T>
FASTPRUNE_MULTIVERSION void widen(const T* __restrict__ from, Wide* __restrict__ to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<Wide>(from[i]);
}

// Of a tensor of shape [outer, channels, inner].
class FactorReader {
 public:
  explicit FactorReader(const Factor& factor) : tensor_(factor.tensor), at_(factor.broadcast) {}

  bool exists() const { return tensor_.defined(); }

  // n entries that follow each other in the dim in the middle.
  template <class Wide>
  void read_along(int64_t outer, int64_t channel, int64_t inner, int64_t n, Wide* to) const {
    read(at_.outer(outer) + channel * at_.along + at_.inner(inner), at_.along, n, to);
  }

  // n entries that follow each other within one entry of the dim in the middle.
  template <class Wide>
  void read_inner(int64_t outer, int64_t channel, int64_t inner, int64_t n, Wide* to) const {
    const int64_t from = at_.outer(outer) + channel * at_.along;
    const BroadcastDims& dims = at_.inner;
    if (dims.count < 2) {
      const int64_t step = dims.count == 0 ? 0 : dims.stride[0];
      return read(from + inner * step, step, n, to);
    }
    const int64_t size = dims.size[dims.count - 1];
    const int64_t step = dims.stride[dims.count - 1];
    for (int64_t i = 0; i < n;) {
      const int64_t run = std::min(n - i, size - (inner + i) % size);
      read(from + dims(inner + i), step, run, to + i);
      i += run;
    }
  }

 private:
  template <class Wide>
  void read(int64_t from, int64_t step, int64_t n, Wide* to) const {
    dispatch_float(tensor_.scalar_type(), [&](auto value) {
      const auto* values = tensor_.const_data_ptr<decltype(value)>() + from;
      if (step == 1) {
        widen(values, to, n);
      } else if (step == 0) {
        std::fill_n(to, n, static_cast<Wide>(*values));
      } else {
        for (int64_t i = 0; i < n; ++i) to[i] = static_cast<Wide>(values[i * step]);
      }
    });
  }

  const at::Tensor& tensor_;
  const Broadcast& at_;
};

}  // namespace fastprune::cpu
