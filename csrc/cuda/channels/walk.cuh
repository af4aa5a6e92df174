// Where the entries of a channel are in a tensor seen as [outer, channels, inner].
#pragma once

#include <cstdint>

#include "common/channel_shape.h"
#include "cuda/util/device.cuh"

namespace fastprune::cuda {

// Visits entries j, j + step, ... of one channel, in logical order. Divides only at the start.
struct ChannelWalk {
  int64_t offset;  // in the tensor
  int64_t place;   // in the run of `inner` neighbours
  int64_t inner;
  int64_t jump;   // added to the offset in every step
  int64_t rest;   // added to the place in every step
  int64_t carry;  // also added to the offset when the place passes the end of a run

  __device__ __forceinline__ ChannelWalk(const ChannelShape& s, int64_t channel, int64_t j,
                                         int64_t step)
      : offset((j / s.inner * s.channels + channel) * s.inner + j % s.inner),
        place(j % s.inner),
        inner(s.inner),
        jump(step / s.inner * s.channels * s.inner + step % s.inner),
        rest(step % s.inner),
        carry((s.channels - 1) * s.inner) {}

  __device__ __forceinline__ void next() {
    offset += jump;
    place += rest;
    if (place >= inner) {
      place -= inner;
      offset += carry;
    }
  }
};

}  // namespace fastprune::cuda
