// topk_masks on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the host
// side of state.cuh: the memory that the kernels pass to each other.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "args/fresh.h"
#include "cuda/topk/state.cuh"
#include "cuda/util/tensor_list.cuh"
#include "cuda/util/vec.cuh"
#include "testing/hooks.h"

namespace fastprune::cuda {

// The memory is one allocation.
template <class F>
struct Workspace {
  TopkWork<F> pointers{};
  at::Tensor memory;  // begins with the state

  // `blocks` of the sweep. There is room for at least so many candidates.
  Workspace(const TensorList& list, unsigned blocks, at::Device device, int64_t least_room = 0) {
    const int64_t wanted =
        std::clamp(list.entries / TopkPolicy::kSampleShare, int64_t{TopkPolicy::kSampleLeast},
                   int64_t{TopkPolicy::kSampleMost});
    TopkWork<F>& w = pointers;
    w.stretch = std::max<int64_t>(1, list.entries / wanted);
    w.sample_size = ceil_div(list.entries, w.stretch);
    w.room =
        std::max(most_candidates(list.entries, w.sample_size), std::min(least_room, list.entries));
    if (test_hooks().overflow) w.room = 0;
    const int64_t tiles = ceil_div(list.tiles, kTilesTogether) * kTilesTogether;
    int64_t size = 0;
    const auto place = [&](int64_t count, size_t each) {
      const int64_t at = size;
      size += ceil_div(count * static_cast<int64_t>(each), kVecBytes) * kVecBytes;
      return at;
    };
    const int64_t state = place(1, sizeof(*w.state));
    const int64_t bins = place(int64_t{kBins} * kPasses<F>, sizeof(*w.bins));
    const int64_t sample = place(w.sample_size, sizeof(*w.sample));
    const int64_t keys = place(w.room, sizeof(*w.keys));
    const int64_t offsets = place(w.room, sizeof(*w.offsets));
    const int64_t batches = place(most_batches(list.tiles, blocks, w.room), sizeof(*w.batches));
    const int64_t edge_ties = place(tiles, sizeof(*w.edge_ties));
    const int64_t ties = place(tiles, sizeof(*w.ties));
    memory = fresh({size}, at::kByte, device);
    uint8_t* base = memory.mutable_data_ptr<uint8_t>();
    w.state = reinterpret_cast<TopkState<typename F::Key>*>(base + state);
    w.bins = reinterpret_cast<unsigned long long*>(base + bins);
    w.sample = reinterpret_cast<typename F::Bits*>(base + sample);
    w.keys = reinterpret_cast<typename F::Bits*>(base + keys);
    w.offsets = reinterpret_cast<uint16_t*>(base + offsets);
    w.batches = reinterpret_cast<Batch*>(base + batches);
    w.edge_ties = reinterpret_cast<unsigned*>(base + edge_ties);
    w.ties = reinterpret_cast<unsigned*>(base + ties);
  }

  // The words by tile beyond the last one; the bracket kernel does it where that runs.
  void clear_padding(int64_t tiles) {
    const int64_t padded = ceil_div(tiles, kTilesTogether) * kTilesTogether;
    const auto clear = [&](const unsigned* words) {
      const auto* base = memory.const_data_ptr<uint8_t>();
      memory
          .slice(0, reinterpret_cast<const uint8_t*>(words + tiles) - base,
                 reinterpret_cast<const uint8_t*>(words + padded) - base)
          .zero_();
    };
    clear(pointers.edge_ties);
    clear(pointers.ties);
  }

  // A block writes a batch for so many tiles, and whenever a lane found no room to stage.
  static int64_t most_batches(int64_t tiles, unsigned blocks, int64_t room) {
    constexpr int kOfWarp = 32 * vec_entries<typename F::Bits>();
    return ceil_div(tiles, TopkPolicy::kBatchTiles) + blocks +
           room / (TopkPolicy::kStaged - kOfWarp + 1);
  }

  // Room for candidates. The bracket is widest if half of the entries are pruned.
  static int64_t most_candidates(int64_t entries, int64_t sampled) {
    const auto size = static_cast<double>(sampled);
    const double share = std::min(1.0, (TopkPolicy::kSampleSigmas * std::sqrt(size) + 6.0) / size);
    const double room = TopkPolicy::kCandidateRoom * share * static_cast<double>(entries);
    return std::min({entries, int64_t{1} << 31, static_cast<int64_t>(room) + kTile});
  }
};

}  // namespace fastprune::cuda
