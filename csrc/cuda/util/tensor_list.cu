// Brings a list of tensors to the device as parameters of a kernel that stores them.
#include "cuda/util/tensor_list.cuh"

#include <cstdint>

namespace fastprune::cuda {

constexpr int kSegmentsPerStore = 56;
constexpr int kStoreThreads = 256;

struct SegmentBatch {
  int first;  // of the list
  int count;
  Segment segment[kSegmentsPerStore];
};
static_assert(sizeof(SegmentBatch) + sizeof(Segment*) <= 4096,
              "what every GPU takes of parameters");

__global__ void __launch_bounds__(kStoreThreads)
    store_segments_kernel(const SegmentBatch batch, Segment* many) {
  for (int i = threadIdx.x; i < batch.count; i += kStoreThreads) {
    many[batch.first + i] = batch.segment[i];
  }
}

}  // namespace fastprune::cuda

#include <ATen/ATen.h>

#include <algorithm>

#include "cuda/util/launch.cuh"
#include "cuda/util/tile_map.h"

namespace fastprune::cuda {

SegmentList TileMap::list(const at::TensorOptions& device) {
  SegmentList list{static_cast<int>(segments_.size()), tiles_, entries_, {}, nullptr};
  if (list.count == 1) list.only = segments_[0];
  if (list.count <= 1) return list;
  const auto bytes = static_cast<int64_t>(segments_.size() * sizeof(Segment));
  stored_ = at::empty({bytes}, device.dtype(at::kByte));
  auto* many = reinterpret_cast<Segment*>(stored_.mutable_data_ptr<uint8_t>());
  for (int first = 0; first < list.count; first += kSegmentsPerStore) {
    SegmentBatch batch{first, std::min(list.count - first, kSegmentsPerStore), {}};
    std::copy_n(segments_.begin() + first, batch.count, batch.segment);
    FASTPRUNE_LAUNCH(store_segments_kernel, 1, kStoreThreads, batch, many);
  }
  list.many = many;
  return list;
}

}  // namespace fastprune::cuda
