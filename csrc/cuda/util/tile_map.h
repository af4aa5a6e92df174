// Host side of tensor_list.cuh: numbers the tiles of a list of tensors and copies it to the device.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda/util/tensor_list.cuh"

namespace fastprune::cuda {

inline int64_t tiles_of(int64_t size) {
  return ceil_div(size, kTile);
}

// The list of one tensor, which is not empty: without memory of its own on host or device.
inline TensorList single(TensorItem item) {
  item.first_tile = item.first_entry = 0;
  return {1, tiles_of(item.size), item.size, item, nullptr};
}

// A copy in device memory, stored there by a kernel. The size is a multiple of 8.
at::Tensor stored_words(const void* from, size_t bytes, at::Device device);

template <class T>
at::Tensor stored(const std::vector<T>& items, at::Device device) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % sizeof(uint64_t) == 0);
  return stored_words(items.data(), items.size() * sizeof(T), device);
}

class TileMap {
 public:
  void add(TensorItem item) {
    if (item.size == 0) return;
    item.first_tile = tiles_;
    item.first_entry = entries_;
    entries_ += item.size;
    tiles_ += tiles_of(item.size);
    items_.push_back(item);
  }

  int64_t tiles() const { return tiles_; }

  // Device memory that items point to.
  void keep(at::Tensor memory) { kept_ = std::move(memory); }

  // The list for kernels. The items of two or more tensors are in device memory that this map
  // owns. Kernels that were launched may outlive the map: the caching allocator reuses memory in
  // stream order.
  TensorList list(at::Device device);

 private:
  std::vector<TensorItem> items_;
  int64_t tiles_ = 0;
  int64_t entries_ = 0;
  at::Tensor stored_;
  at::Tensor kept_;
};

}  // namespace fastprune::cuda
