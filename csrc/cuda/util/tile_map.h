// Host side of tensor_list.cuh: numbers the tiles of a list of tensors and brings it to the device.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "cuda/util/tensor_list.cuh"

namespace fastprune::cuda {

class TileMap {
 public:
  void add(Segment segment) {
    if (segment.size == 0) return;
    segment.first_tile = tiles_;
    segment.first_entry = entries_;
    entries_ += segment.size;
    tiles_ += (segment.size + kTile - 1) / kTile;
    segments_.push_back(segment);
  }

  int64_t tiles() const { return tiles_; }

  // What kernels take; of two tensors or more in memory that lives as long as this map. Work that
  // was launched before it ends is safe: the allocator gives memory on in order of the stream.
  SegmentList list(const at::TensorOptions& device);

 private:
  std::vector<Segment> segments_;
  int64_t tiles_ = 0;
  int64_t entries_ = 0;
  at::Tensor stored_;
};

}  // namespace fastprune::cuda
