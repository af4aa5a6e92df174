// topk_part on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback, over parts. Here
// the kernels that topk_masks has not: histograms of what parts have to know of each other. The
// host chooses the bins, as it has the counts of all parts. Raw pointers, no torch headers.
#pragma once

#include "common/part_bins.h"
#include "common/places.h"
#include "common/promote.h"
#include "cuda/topk/kernels.cuh"

namespace fastprune::cuda {

// Adds the active entries, or the candidates of the sweep, to the bins of their promoted keys.
template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_part_histogram_kernel(const TensorList list, const SelectionOptions options,
                               const TopkWork<F> work, Source source, const Promotion promotion,
                               const PartBins bins, unsigned long long* all) {
  FASTPRUNE_SHARED(unsigned[kPartBins], counts);
  clear_bins(counts, kPartBins);
  __syncthreads();
  count_source<F, M>(
      list, options, work, source,
      [&](typename F::Key key) { return bins(static_cast<int64_t>(promotion(key))); }, blockIdx.x,
      gridDim.x, counts);
  __syncthreads();
  add_bins(counts, kPartBins, all);
}

// Entries whose places are counted: those with this key.
template <class Key>
struct Ties {
  Key key;
  // Among the candidates, or all entries; of the latter only tiles where the sweep counted ties
  // with an edge, if `at_edge`.
  Source source;
  bool at_edge;
};

// Adds ties to the bins of their places. `places`: for each tensor where its table is (common/
// places.h), counted from here, and then the tables.
template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, kOneBlock)
    topk_part_ties_kernel(const TensorList list, const SelectionOptions options,
                          const TopkWork<F> work, const Ties<typename F::Key> ties,
                          const int64_t* places, const PartBins bins, unsigned long long* all) {
  using Key = typename F::Key;
  FASTPRUNE_SHARED(unsigned[kPartBins], counts);
  clear_bins(counts, kPartBins);
  __syncthreads();
  const auto count = [&](int tile, int i, Key key) {
    if (key != ties.key) return;
    const int item = list.count == 1 ? 0 : index_at<&TensorItem::first_tile>(list, tile);
    const int64_t first = list.count == 1 ? 0 : list.items[item].first_tile;
    const int64_t index = (tile - first) * kTile + i;
    const int bin = bins(tie_place(places + places[item], index));
    if (bin >= 0) atomicAdd(&counts[bin], 1u);
  };
  if (ties.source == Source::kCandidates) {
    for_each_candidate<F>(work, blockIdx.x, gridDim.x, count);
  } else {
    const Key lo = work.state->edges.lo;
    const TileRange mine = share_of_tiles(list.tiles, blockIdx.x, gridDim.x);
    for (int tile = mine.first; tile < mine.last; ++tile) {
      const EdgeTies found{ties.at_edge ? work.edge_ties[tile] : 0};
      if (ties.at_edge && (ties.key == lo ? found.lo() : found.hi()) == 0) continue;
      for_each_active<F, M>(list, options, {tile, tile + 1}, count);
    }
  }
  __syncthreads();
  add_bins(counts, kPartBins, all);
}

}  // namespace fastprune::cuda
