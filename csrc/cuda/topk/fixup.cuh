// topk_masks on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the fixup,
// once the threshold is known: counts its ties by tile, assigns each tile the number of ties it
// prunes, lowest index first, and rewrites what the sweep decided wrongly.
#pragma once

#include "cuda/topk/state.cuh"

namespace fastprune::cuda {

// How many ties a tile prunes. `ordered`: only some of them, so the first `due` by index.
struct Quota {
  int due;
  bool ordered;
};

// ---- how many ties each tile prunes ----

template <class Key>
__device__ __forceinline__ bool all_due(const Bracket<Key>& threshold) {
  return threshold.rank > 0 && threshold.rank == threshold.inside;
}

// All ties are pruned, or all kept: per-tile counts are unnecessary.
template <class Key>
__device__ __forceinline__ bool all_or_none(const Bracket<Key>& threshold) {
  return threshold.rank == 0 || all_due(threshold);
}

// Neighbouring threads that count a tile's ties together.
constexpr int kTieLanes = 8;
constexpr int kTieGroups = TopkPolicy::kThreads / kTieLanes;

// Groups of kTieLanes threads count the ties of tiles first, first + stride, ... Quotas are 0 until
// assign_quotas().
template <class F>
__device__ __forceinline__ void count_ties(const TopkWork<F>& work, int64_t tiles,
                                           const Edges<typename F::Key>& edges,
                                           const Bracket<typename F::Key>& threshold, int64_t first,
                                           int64_t stride) {
  using Key = typename F::Key;
  if (all_or_none(threshold)) return;
  const Key key = threshold.lo;
  const unsigned lane = threadIdx.x % kTieLanes;
  const unsigned group = ((1u << kTieLanes) - 1) << (threadIdx.x % 32 / kTieLanes * kTieLanes);
  for (int64_t tile = first; tile < tiles; tile += stride) {
    const TileRecord* record = work.records + tile;
    unsigned ties = 0;
    if (key == edges.lo) {
      ties = load_fresh(&record->ties_lo);
    } else if (key == edges.hi) {
      ties = load_fresh(&record->ties_hi);
    } else {
      const unsigned begin = load_fresh(&record->begin);
      const unsigned between = load_fresh(&record->between);
      for (unsigned i = lane; i < between; i += TopkPolicy::kKeysInFlight * kTieLanes) {
        typename F::Bits keys[TopkPolicy::kKeysInFlight];
#pragma unroll
        for (int j = 0; j < TopkPolicy::kKeysInFlight; ++j) {
          const unsigned at = i + j * kTieLanes;
          keys[j] = at < between ? load_fresh(work.keys + begin + at) : no_key<F>();
        }
#pragma unroll
        for (int j = 0; j < TopkPolicy::kKeysInFlight; ++j) {
          ties += static_cast<Key>(keys[j]) == key;
        }
      }
#pragma unroll
      for (int half = kTieLanes / 2; half > 0; half /= 2) {
        ties += __shfl_xor_sync(group, ties, half, kTieLanes);
      }
    }
    if (lane == 0) work.ties[tile] = tile_ties(ties, 0).word;
  }
}

// The ties and the quota of a tile. With all_or_none(), ties among the candidates are not counted,
// and 1 stands for any number of them.
template <class F>
__device__ __forceinline__ TileTies ties_of(const TopkWork<F>& work,
                                            const Edges<typename F::Key>& edges,
                                            const Bracket<typename F::Key>& threshold,
                                            int64_t tile) {
  if (!all_or_none(threshold)) return {work.ties[tile]};
  unsigned ties = 1;
  if (threshold.lo == edges.lo) {
    ties = work.records[tile].ties_lo;
  } else if (threshold.lo == edges.hi) {
    ties = work.records[tile].ties_hi;
  }
  return tile_ties(ties, threshold.rank > 0 ? ties : 0);
}

// One block: if only some ties are pruned, assigns quotas from the first tile on, until all of them
// are assigned.
template <class Key>
__device__ __forceinline__ void assign_quotas(unsigned* ties, int64_t tiles,
                                              const Bracket<Key>& threshold) {
  using Scan = cub::BlockScan<long long, TopkPolicy::kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  FASTPRUNE_SHARED(typename Scan::TempStorage, scan);
  if (all_or_none(threshold)) return;
  long long left = threshold.rank;
  for (int64_t first = 0; left > 0 && first < tiles;
       first += kTilesTogether * TopkPolicy::kThreads) {
    const int64_t mine = first + int64_t{threadIdx.x} * kTilesTogether;
    uint4 vectors[kTilesTogether / 4] = {};
    auto* words = reinterpret_cast<uint4*>(ties + mine);
    if (mine < tiles) {
#pragma unroll
      for (int v = 0; v < kTilesTogether / 4; ++v) vectors[v] = load_fresh(words + v);
    }
    const auto each = [&](const auto& fn) {
#pragma unroll
      for (int v = 0; v < kTilesTogether / 4; ++v) {
        fn(vectors[v].x);
        fn(vectors[v].y);
        fn(vectors[v].z);
        fn(vectors[v].w);
      }
    };
    long long own = 0;
    each([&](unsigned& word) { own += TileTies{word}.ties(); });
    long long before = 0;
    long long total = 0;
    Scan(scan).ExclusiveSum(own, before, total);
    each([&](unsigned& word) {
      const long long here = TileTies{word}.ties();
      const long long due = left - before;
      const long long quota = due <= 0 ? 0 : (due < here ? due : here);
      word = tile_ties(static_cast<unsigned>(here), static_cast<unsigned>(quota)).word;
      before += here;
    });
    if (mine < tiles) {
#pragma unroll
      for (int v = 0; v < kTilesTogether / 4; ++v) store(words + v, vectors[v]);
    }
    left -= total;
    __syncthreads();  // before the next round uses `scan`
  }
}

// ---- rewriting ----

// The block writes a tile by the exact threshold and prunes `quota.due` of its ties. Returns the
// number of ties in the tile if the quota is ordered.
template <int N, class F, class M>
__device__ __forceinline__ int write_exact_entries(const Span<F, M>& span,
                                                   typename F::Key threshold, Quota quota,
                                                   const SelectionOptions& options) {
  using Key = typename F::Key;
  using Scan = cub::BlockScan<int, TopkPolicy::kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  FASTPRUNE_SHARED(typename Scan::TempStorage, scan);
  int left = quota.due;
  for (int first = 0; first < span.size; first += TopkPolicy::kThreads * N) {
    const int i = first + static_cast<int>(threadIdx.x) * N;
    const bool there = i < span.size;
    Vec<M, N> values{};
    unsigned ties = 0;
    if (there) {
      const auto scores = load_vec<N>(span.scores + i);
      values = old_mask<N, F, M>(span, i, options);
#pragma unroll
      for (int e = 0; e < N; ++e) {
        const Key key = rank_key<F>(scores.at[e], static_cast<Key>(options.flip));
        if (!is_active<F, M>(values.at[e], options)) continue;
        if (key < threshold) values.at[e] = M{0};
        if (key == threshold) ties |= 1u << e;
      }
    }
    int before = 0;
    int total = 0;
    if (quota.ordered) {
      Scan(scan).ExclusiveSum(__popc(ties), before, total);
      __syncthreads();  // before the next round uses `scan`
    }
    if (there) {
#pragma unroll
      for (int e = 0; e < N; ++e) {
        if ((ties >> e & 1) != 0 && before++ < left) values.at[e] = M{0};
      }
      write<N, F, M>(span, i, values);
    }
    left -= total;
  }
  return quota.due - left;
}

template <class F, class M>
__device__ __forceinline__ int write_exact_tile(const Span<F, M>& span, typename F::Key threshold,
                                                Quota quota, const SelectionOptions& options) {
  constexpr int kEntries = vec_entries<typename F::Bits, M>();
  return is_vectorized<F, M>(span)
             ? write_exact_entries<kEntries, F, M>(span, threshold, quota, options)
             : write_exact_entries<1, F, M>(span, threshold, quota, options);
}

// A warp rewrites those candidates of a tile that the sweep put on the wrong side of the threshold,
// ties included if the tile prunes all or none of them. Returns true, in all lanes, if the block
// has to rewrite the whole tile instead.
template <class F, class M>
__device__ __forceinline__ bool fixup_candidates(
    const TensorList& list, const SelectionOptions& options, const TopkWork<F>& work,
    const Edges<typename F::Key>& edges, const Bracket<typename F::Key>& found, int64_t tile) {
  using Key = typename F::Key;
  const Key threshold = found.lo;
  const TileRecord record = work.records[tile];
  const TileTies ties = ties_of(work, edges, found, tile);
  const bool at_edge = threshold == edges.lo || threshold == edges.hi;
  const bool all_pruned = threshold < edges.pivot;
  const bool wrong = all_pruned ? ties.quota() < ties.ties() : ties.quota() > 0;
  if (at_edge ? wrong : ties.partial()) return true;
  if (record.between == 0) return false;
  const Span<F, M> span = tile_span<typename F::Bits, M>(list, tile);
  for (unsigned j = threadIdx.x % 32; j < record.between; j += 32) {
    const Key key = work.keys[record.begin + j];
    const bool prune = key < threshold || (key == threshold && ties.quota() > 0);
    if (prune == (key < edges.pivot)) continue;
    const int i = work.offsets[record.begin + j];
    const Vec<M, 1> old = old_mask<1, F, M>(span, i, options);
    write<1, F, M>(span, i, prune ? Vec<M, 1>{{M{0}}} : old);
  }
  return false;
}

// Each warp repairs a tile; the block rewrites tiles its warps could not. Neighbouring tiles go to
// different blocks, as tiles to be rewritten tend to be neighbours.
template <class F, class M>
__device__ __forceinline__ void fixup_tiles(const TensorList& list, const SelectionOptions& options,
                                            const TopkWork<F>& work,
                                            const Edges<typename F::Key>& edges,
                                            const Bracket<typename F::Key>& threshold) {
  FASTPRUNE_SHARED(bool[kWarps], left);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  for (int64_t first = blockIdx.x; first < list.tiles; first += int64_t{gridDim.x} * kWarps) {
    const auto tile_of = [&](int w) { return first + int64_t{gridDim.x} * w; };
    const int64_t tile = tile_of(warp);
    const bool rest =
        tile < list.tiles && fixup_candidates<F, M>(list, options, work, edges, threshold, tile);
    if (threadIdx.x % 32 == 0) left[warp] = rest;
    if (__syncthreads_or(rest) == 0) continue;
    for (int w = 0; w < kWarps; ++w) {
      if (!left[w]) continue;
      const TileTies ties = ties_of(work, edges, threshold, tile_of(w));
      const Quota quota{static_cast<int>(ties.quota()), ties.partial()};
      write_exact_tile<F, M>(tile_span<typename F::Bits, M>(list, tile_of(w)), threshold.lo, quota,
                             options);
    }
    __syncthreads();  // before `left` is written again
  }
}

}  // namespace fastprune::cuda
