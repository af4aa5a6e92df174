// Copies what kernels read by its address to the device, such as a TensorList: as the parameters of
// a kernel that stores them.
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
constexpr int kWordsPerStore = (kParameterBytes - 2 * sizeof(int64_t)) / sizeof(uint64_t);
constexpr int kStoreThreads = 256;

struct WordBatch {
  int count;
  uint64_t word[kWordsPerStore];
};
static_assert(sizeof(WordBatch) + sizeof(uint64_t*) <= kParameterBytes, "a launch takes them");

__global__ void __launch_bounds__(kStoreThreads)
    store_words_kernel(const WordBatch batch, uint64_t* words) {
  for (int i = threadIdx.x; i < batch.count; i += kStoreThreads) words[i] = batch.word[i];
}

}  // namespace fastprune::cuda

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstring>

#include "args/fresh.h"
#include "cuda/util/launch.cuh"
#include "cuda/util/tile_map.h"

namespace fastprune::cuda {

at::Tensor stored_words(const void* from, size_t bytes, at::Device device) {
  TORCH_INTERNAL_ASSERT(bytes % sizeof(uint64_t) == 0);
  at::Tensor memory = fresh({static_cast<int64_t>(bytes)}, at::kByte, device);
  auto* words = reinterpret_cast<uint64_t*>(memory.mutable_data_ptr<uint8_t>());
  const size_t count = bytes / sizeof(uint64_t);
  for (size_t first = 0; first < count; first += kWordsPerStore) {
    WordBatch batch{static_cast<int>(std::min<size_t>(count - first, kWordsPerStore)), {}};
    std::memcpy(batch.word, static_cast<const uint64_t*>(from) + first,
                batch.count * sizeof(uint64_t));
    FASTPRUNE_LAUNCH(store_words_kernel, 1, kStoreThreads, batch, words + first);
  }
  return memory;
}

TensorList TileMap::list(at::Device device) {
  TensorList list{static_cast<int>(items_.size()), tiles_, entries_, {}, nullptr};
  if (list.count == 1) list.only = items_[0];
  if (list.count <= 1) return list;
  stored_ = stored(items_, device);
  list.items = reinterpret_cast<const TensorItem*>(stored_.const_data_ptr<uint8_t>());
  return list;
}

}  // namespace fastprune::cuda
