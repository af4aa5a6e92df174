// topk_masks on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the fixup,
// once the threshold is known: finds the tile up to which its ties are pruned, lowest index first,
// and rewrites what the sweep decided wrongly.
#pragma once

#include "cuda/topk/state.cuh"

namespace fastprune::cuda {

// ---- which ties are pruned ----

template <class Key>
__device__ __forceinline__ bool all_due(const Bracket<Key>& threshold) {
  return threshold.rank > 0 && threshold.rank == threshold.inside;
}

// All ties are pruned, or all kept: counts by tile are unnecessary.
template <class Key>
__device__ __forceinline__ bool all_or_none(const Bracket<Key>& threshold) {
  return threshold.rank == 0 || all_due(threshold);
}

template <class Key>
FASTPRUNE_HD bool at_edge(const Edges<Key>& edges, Key threshold) {
  return threshold == edges.lo || threshold == edges.hi;
}

// Calls fn(tile, offset in the tile, key) for the candidates in the batches of block `first` of
// `stride`.
template <class F, class Fn>
__device__ __forceinline__ void for_each_candidate(const TopkWork<F>& work, int64_t first,
                                                   int64_t stride, const Fn& fn) {
  using Key = typename F::Key;
  constexpr int kLoads = 2;  // in flight, as registers allow
  const auto batches = static_cast<int64_t>(load_fresh(&work.state->batches));
  Batch next{};
  const auto fetch = [&](int64_t b) {
    if (b >= batches) return;
    next.first_tile = load_fresh(&work.batches[b].first_tile);
    next.begin = load_fresh(&work.batches[b].begin);
    next.count = load_fresh(&work.batches[b].count);
  };
  fetch(first);
  for (int64_t b = first; b < batches; b += stride) {
    const auto [tile, begin, count] = next;
    fetch(b + stride);
    for (unsigned round = threadIdx.x; round < count; round += kLoads * TopkPolicy::kThreads) {
      typename F::Bits keys[kLoads];
      uint16_t offsets[kLoads];
#pragma unroll
      for (int l = 0; l < kLoads; ++l) {
        const unsigned j = round + l * TopkPolicy::kThreads;
        keys[l] = j < count ? load_fresh(work.keys + begin + j) : no_key<F>();
        offsets[l] = j < count ? load_fresh(work.offsets + begin + j) : uint16_t{0};
      }
#pragma unroll
      for (int l = 0; l < kLoads; ++l) {
        if (keys[l] == no_key<F>()) continue;
        fn(tile + offsets[l] / kTile, static_cast<int>(offsets[l] % kTile),
           static_cast<Key>(keys[l]));
      }
    }
  }
}

// Counts ties with a threshold that is among the candidates by tile, if only some are pruned. Ties
// with the edges have been counted by the sweep.
template <class F>
__device__ __forceinline__ void count_ties(const TopkWork<F>& work,
                                           const Edges<typename F::Key>& edges,
                                           const Bracket<typename F::Key>& threshold, int64_t first,
                                           int64_t stride) {
  using Key = typename F::Key;
  if (all_or_none(threshold) || at_edge(edges, threshold.lo)) return;
  for_each_candidate<F>(work, first, stride, [&](int tile, int, Key key) {
    if (key == threshold.lo) atomicAdd(&work.ties[tile], 1u);
  });
}

// One block finds the boundary, from the first tile on, and returns it to all threads.
template <class F>
__device__ __forceinline__ TieBoundary tie_boundary(const TopkWork<F>& work, int tiles,
                                                    const Edges<typename F::Key>& edges,
                                                    const Bracket<typename F::Key>& threshold) {
  using Scan = cub::BlockScan<long long, TopkPolicy::kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  FASTPRUNE_SHARED(typename Scan::TempStorage, scan);
  FASTPRUNE_SHARED(TieBoundary, found);
  if (all_or_none(threshold)) return {threshold.rank > 0 ? tiles : 0, 0};
  const bool edge = at_edge(edges, threshold.lo);
  const auto ties_in = [&](unsigned word) -> unsigned {
    if (!edge) return word;
    return threshold.lo == edges.lo ? EdgeTies{word}.lo() : EdgeTies{word}.hi();
  };
  const unsigned* words = edge ? work.edge_ties : work.ties;
  long long left = threshold.rank;
  for (int first = 0; left > 0 && first < tiles; first += kTilesTogether * TopkPolicy::kThreads) {
    const int mine = first + static_cast<int>(threadIdx.x) * kTilesTogether;
    uint4 vectors[kTilesTogether / 4] = {};
    if (mine < tiles) {
#pragma unroll
      for (int v = 0; v < kTilesTogether / 4; ++v) {
        vectors[v] = load_fresh(reinterpret_cast<const uint4*>(words + mine) + v);
      }
    }
    const auto each = [&](const auto& fn) {
#pragma unroll
      for (int v = 0; v < kTilesTogether / 4; ++v) {
        fn(4 * v, ties_in(vectors[v].x));
        fn(4 * v + 1, ties_in(vectors[v].y));
        fn(4 * v + 2, ties_in(vectors[v].z));
        fn(4 * v + 3, ties_in(vectors[v].w));
      }
    };
    long long own = 0;
    each([&](int, unsigned ties) { own += ties; });
    long long before = 0;
    long long total = 0;
    Scan(scan).ExclusiveSum(own, before, total);
    each([&](int t, unsigned ties) {
      if (before < left && left <= before + ties) {  // true for one tile
        found = {mine + t, static_cast<int>(left - before)};
      }
      before += ties;
    });
    left -= total;
    __syncthreads();  // before the next round uses `scan`; `found` is written
  }
  return found;
}

// ---- rewriting ----

// How many ties a tile prunes. `ordered`: only some of them, so the first `due` by index.
struct Quota {
  int due;
  bool ordered;
};

// The block writes a tile by the exact threshold and prunes `quota.due` of its ties. Returns the
// number of ties it pruned if the quota is ordered.
template <class F, class M>
__device__ __forceinline__ int write_exact_tile(const Span<F, M>& span, typename F::Key threshold,
                                                Quota quota, const SelectionOptions& options) {
  using Key = typename F::Key;
  using Scan = cub::BlockScan<int, TopkPolicy::kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  constexpr int N = vec_entries<typename F::Bits, M>();
  FASTPRUNE_SHARED(typename Scan::TempStorage, scan);
  int left = quota.due;
  for (int first = 0; first < span.size; first += TopkPolicy::kThreads * N) {
    const int i = first + static_cast<int>(threadIdx.x) * N;
    const int there = span.size - i;
    Entries<N, F, M> entries;
    Vec<M, N> mask;
    unsigned ties = 0;
    if (there > 0) {
      entries = load_entries<N, F, M>(span, i, options);
      mask = entries.mask.unpack();
      const auto scores = entries.scores.unpack();
#pragma unroll
      for (int e = 0; e < N; ++e) {
        if (e >= there || !is_active<F, M>(mask.at[e], options)) continue;
        const Key key = rank_key<F>(scores.at[e], static_cast<Key>(options.flip));
        if (key < threshold) mask.at[e] = M{0};
        if (key == threshold) ties |= 1u << e;
      }
    }
    int before = 0;
    int total = 0;
    if (quota.ordered) {
      Scan(scan).ExclusiveSum(__popc(ties), before, total);
      __syncthreads();  // before the next round uses `scan`
    }
    if (there > 0) {
#pragma unroll
      for (int e = 0; e < N; ++e) {
        if ((ties >> e & 1) != 0 && before++ < left) mask.at[e] = M{0};
      }
      write<N, F, M>(span.out + i, advance(span.product, i), there, mask, entries.t);
    }
    left -= total;
  }
  return quota.due - left;
}

// One block writes a range of tiles, in which the threshold's rank is.
template <class F, class M>
__device__ __forceinline__ void write_exact(const TensorList& list, const SelectionOptions& options,
                                            const Bracket<typename F::Key>& threshold,
                                            TileRange tiles) {
  int64_t left = threshold.rank;
  TileWalk walk(list, tiles.first);
  for (int64_t tile = tiles.first; tile < tiles.last; ++tile) {
    const Quota quota{static_cast<int>(left < kTile ? left : kTile),
                      left > 0 && !all_due(threshold)};
    left -=
        write_exact_tile<F, M>(walk.span<typename F::Bits, M>(tile), threshold.lo, quota, options);
  }
}

// The tiles that blocks rewrite as a whole: that of the boundary, and tiles where the sweep pruned
// or kept entries equal to an edge, and should not have.
template <class Key>
struct Rewrite {
  TileRange lo;  // where the lower edge was decided wrong
  TileRange hi;
  TieBoundary boundary;
  const unsigned* edge_ties;

  // Up to which tile entries of a key are pruned, where the first `ties` tiles prune those of
  // `threshold`.
  FASTPRUNE_HD static int pruned_up_to(Key key, Key threshold, int ties, int tiles) {
    return key < threshold ? tiles : key > threshold ? 0 : ties < tiles ? ties : tiles;
  }

  FASTPRUNE_HD Rewrite(const Edges<Key>& edges, Key threshold, const TieBoundary& found,
                       const unsigned* ties, int tiles)
      : boundary(found), edge_ties(ties) {
    const auto wrong = [&](Key edge) -> TileRange {
      const int first_kept = static_cast<int>(edges.pivot_tile);
      const int swept = pruned_up_to(edge, edges.pivot, first_kept, tiles);
      const int exact = pruned_up_to(edge, threshold, found.tile, tiles);
      return swept < exact ? TileRange{swept, exact} : TileRange{exact, swept};
    };
    lo = wrong(edges.lo);
    hi = wrong(edges.hi);
  }

  __device__ __forceinline__ bool holds(int tile) const {
    if (tile == boundary.tile && boundary.due > 0) return true;
    return (in_range(lo, tile) && EdgeTies{edge_ties[tile]}.lo() > 0) ||
           (in_range(hi, tile) && EdgeTies{edge_ties[tile]}.hi() > 0);
  }

  // Holds all of them.
  FASTPRUNE_HD TileRange range() const {
    TileRange all{boundary.tile, boundary.tile + (boundary.due > 0)};
    const auto add = [&](const TileRange& more) {
      if (more.first == more.last) return;
      if (all.first == all.last) all = more;
      all.first = more.first < all.first ? more.first : all.first;
      all.last = more.last > all.last ? more.last : all.last;
    };
    add(lo);
    add(hi);
    return all;
  }

  __device__ __forceinline__ Quota quota(int tile) const {
    if (tile == boundary.tile) return {boundary.due, boundary.due > 0};
    return {tile < boundary.tile ? kTile : 0, false};
  }
};

// Rewrites the candidates that the sweep put on the wrong side of the threshold.
template <class F, class M>
__device__ __forceinline__ void fixup_candidates(const TensorList& list,
                                                 const SelectionOptions& options,
                                                 const TopkWork<F>& work,
                                                 const Edges<typename F::Key>& edges,
                                                 typename F::Key threshold,
                                                 const Rewrite<typename F::Key>& rewrite) {
  using Key = typename F::Key;
  for_each_candidate<F>(work, blockIdx.x, gridDim.x, [&](int tile, int i, Key key) {
    const bool pruned = key < threshold || (key == threshold && tile < rewrite.boundary.tile);
    if (pruned == (key < edges.bound(tile)) || rewrite.holds(tile)) return;
    const Span<F, M> span = tile_span<typename F::Bits, M>(list, tile);
    // A candidate is active: of `active_only`, its old mask is one.
    const bool known = options.active_only || span.mask == nullptr;
    const M old = known ? static_cast<M>(options.one) : load_vec<1>(span.mask + i).at[0];
    Packed<typename F::Bits, 1> t{};
    if (span.product != nullptr) t = pack(load_vec<1>(span.t + i));
    write<1, F, M>(span.out + i, advance(span.product, i), 1, Vec<M, 1>{{pruned ? M{0} : old}}, t);
  });
}

template <class F, class M>
__device__ __forceinline__ void fixup(const TensorList& list, const SelectionOptions& options,
                                      const TopkWork<F>& work) {
  const auto* state = work.state;
  const auto threshold = state->bracket.lo;
  const Rewrite<typename F::Key> rewrite(state->edges, threshold, state->boundary, work.edge_ties,
                                         static_cast<int>(list.tiles));
  if (state->source == Source::kCandidates) {
    fixup_candidates<F, M>(list, options, work, state->edges, threshold, rewrite);
  }
  const TileRange range = rewrite.range();
  for (int tile = range.first + static_cast<int>(blockIdx.x); tile < range.last;
       tile += static_cast<int>(gridDim.x)) {
    if (!rewrite.holds(tile)) continue;
    write_exact_tile<F, M>(tile_span<typename F::Bits, M>(list, tile), threshold,
                           rewrite.quota(tile), options);
  }
}

}  // namespace fastprune::cuda
