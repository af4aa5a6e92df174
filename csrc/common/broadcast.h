// Where the entries of a broadcast tensor are, by the index of a tensor that it broadcasts to: it
// is read in place, not expanded in memory. Free of ATen.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace fastprune {

// Some neighbouring dims of the tensor as one index. Dims that are evenly strided are merged, so
// there is rarely more than one.
struct BroadcastDims {
  static constexpr int kMost = 4;

  int count = 0;
  int64_t size[kMost] = {};
  int64_t stride[kMost] = {};

  // How far the entry of an index is from the first.
  FASTPRUNE_HD int64_t operator()(int64_t index) const {
    if (count == 1) return index * stride[0];
    int64_t offset = 0;
    for (int d = count - 1; d >= 0; --d) {
      if (((index | size[d]) >> 32) == 0) {  // much faster on a GPU
        const auto by = static_cast<uint32_t>(size[d]);
        const auto low = static_cast<uint32_t>(index);
        offset += low % by * stride[d];
        index = low / by;
      } else {
        offset += index % size[d] * stride[d];
        index /= size[d];
      }
    }
    return offset;
  }

  // Puts a dim before those that are there. False if there is no room.
  bool prepend(int64_t of_size, int64_t of_stride) {
    if (of_size == 1) return true;
    if (count > 0 && of_stride == stride[0] * size[0]) {
      size[0] *= of_size;
      return true;
    }
    if (count == kMost) return false;
    for (int d = count; d > 0; --d) {
      size[d] = size[d - 1];
      stride[d] = stride[d - 1];
    }
    size[0] = of_size;
    stride[0] = of_stride;
    ++count;
    return true;
  }
};

// A tensor that broadcasts to one of shape [outer, length, inner].
struct Broadcast {
  BroadcastDims outer;
  int64_t along;  // stride of the dim in the middle
  BroadcastDims inner;
};

}  // namespace fastprune
