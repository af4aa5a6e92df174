// Copies a TensorList to the device: its items are the parameters of a kernel that stores them.
#include "cuda/util/tensor_list.cuh"

#include <cstdint>

namespace fastprune::cuda {

constexpr int kItemsPerStore = 56;
constexpr int kStoreThreads = 256;

struct ItemBatch {
  int first;  // index in the list
  int count;
  TensorItem item[kItemsPerStore];
};
static_assert(sizeof(ItemBatch) + sizeof(TensorItem*) <= 4096,
              "every GPU takes this many bytes of parameters");

__global__ void __launch_bounds__(kStoreThreads)
    store_tensors_kernel(const ItemBatch batch, TensorItem* items) {
  for (int i = threadIdx.x; i < batch.count; i += kStoreThreads) {
    items[batch.first + i] = batch.item[i];
  }
}

}  // namespace fastprune::cuda

#include <ATen/ATen.h>

#include <algorithm>

#include "cuda/util/launch.cuh"
#include "cuda/util/tile_map.h"

namespace fastprune::cuda {

TensorList TileMap::list(const at::TensorOptions& device) {
  TensorList list{static_cast<int>(items_.size()), tiles_, entries_, {}, nullptr};
  if (list.count == 1) list.only = items_[0];
  if (list.count <= 1) return list;
  const auto bytes = static_cast<int64_t>(items_.size() * sizeof(TensorItem));
  stored_ = at::empty({bytes}, device.dtype(at::kByte));
  auto* items = reinterpret_cast<TensorItem*>(stored_.mutable_data_ptr<uint8_t>());
  for (int first = 0; first < list.count; first += kItemsPerStore) {
    ItemBatch batch{first, std::min(list.count - first, kItemsPerStore), {}};
    std::copy_n(items_.begin() + first, batch.count, batch.item);
    FASTPRUNE_LAUNCH(store_tensors_kernel, 1, kStoreThreads, batch, items);
  }
  list.items = items;
  return list;
}

}  // namespace fastprune::cuda
