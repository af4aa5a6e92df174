// A tensor as [outer, channels, inner] around the dim of its channels. Free of ATen.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace fastprune {

struct ChannelShape {
  int64_t outer;
  int64_t channels;
  int64_t inner;

  FASTPRUNE_HD int64_t entries() const { return outer * inner; }  // of a channel
};

// `sizes` of all dims of a tensor; 0 <= dim < dims.
inline ChannelShape channel_shape(const int64_t* sizes, int64_t dims, int64_t dim) {
  ChannelShape shape{1, sizes[dim], 1};
  for (int64_t d = 0; d < dim; ++d) shape.outer *= sizes[d];
  for (int64_t d = dim + 1; d < dims; ++d) shape.inner *= sizes[d];
  return shape;
}

}  // namespace fastprune
