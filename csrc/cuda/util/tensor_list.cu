// Copies a TensorList to the device: its items are the parameters of a kernel that stores them.
#include "cuda/util/tensor_list.cuh"

#include <cstdint>

namespace fastprune::cuda {

// Every GPU takes 4 KiB of parameters; from compute capability 7.0 and CUDA 12.1 on, 32 KiB less 4.
#if defined(__CUDA_ARCH_LIST__) && CUDART_VERSION >= 12010
constexpr int kArchs[] = {__CUDA_ARCH_LIST__};  // in ascending order
constexpr int kParameterBytes = kArchs[0] >= 700 ? 32764 : 4096;
#else
constexpr int kParameterBytes = 4096;
#endif
constexpr int kItemsPerStore =
    (kParameterBytes - 2 * sizeof(int64_t)) / sizeof(TensorItem);  // 340 or 42
constexpr int kStoreThreads = 256;

struct ItemBatch {
  int first;  // index in the list
  int count;
  TensorItem item[kItemsPerStore];
};
static_assert(sizeof(ItemBatch) + sizeof(TensorItem*) <= kParameterBytes, "a launch takes them");

__global__ void __launch_bounds__(kStoreThreads)
    store_tensors_kernel(const ItemBatch batch, TensorItem* items) {
  for (int i = threadIdx.x; i < batch.count; i += kStoreThreads) {
    items[batch.first + i] = batch.item[i];
  }
}

}  // namespace fastprune::cuda

#include <ATen/ATen.h>

#include <algorithm>

#include "args/fresh.h"
#include "cuda/util/launch.cuh"
#include "cuda/util/tile_map.h"

namespace fastprune::cuda {

TensorList TileMap::list(at::Device device) {
  TensorList list{static_cast<int>(items_.size()), tiles_, entries_, {}, nullptr};
  if (list.count == 1) list.only = items_[0];
  if (list.count <= 1) return list;
  const auto bytes = static_cast<int64_t>(items_.size() * sizeof(TensorItem));
  stored_ = fresh({bytes}, at::kByte, device);
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
