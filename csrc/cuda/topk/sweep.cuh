// topk_masks on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the sweep:
// one pass that writes every entry as if the pivot were the threshold, counts, and stores the keys
// strictly between the edges as candidates. Keys equal to an edge are only counted: an edge tends
// to be a key of very many entries, which would fill the room for candidates.
//
// A block sweeps contiguous tiles, a batch of kBatchTiles between two barriers. Within a batch its
// warps do not wait for each other: they stage their candidates in shared memory. A thread loads
// the vectors of a step together, so that many loads are under way, and what is done once a step is
// shared by many entries.
#pragma once

#include "cuda/topk/radix_pass.cuh"
#include "cuda/topk/state.cuh"
#include "cuda/util/budget.cuh"

namespace fastprune::cuda {

// What a block keeps in shared memory.
template <class F>
struct Staging {
  // The candidates of a batch.
  unsigned count;            // allocates room, and may exceed it
  unsigned full_at;          // if it does: how many are there
  unsigned long long begin;  // in the memory for candidates
  typename F::Bits keys[TopkPolicy::kStaged];
  uint16_t offsets[TopkPolicy::kStaged];
  unsigned edge_ties[TopkPolicy::kBatchTiles];
  // Ties of all batches.
  unsigned ties_lo;
  unsigned ties_hi;
};

// What a thread found in all of its tiles, far fewer than 2^32 entries.
struct Totals {
  unsigned active = 0;
  unsigned below = 0;
};

// The edges as the inner loop compares them, as ranges of raw_key().
template <class F>
struct RawEdges {
  using Key = typename F::Key;

  Key lo;
  Key inside;  // key - lo is under this: an edge, or between them
  Key above_lo;
  Key between;  // key - above_lo is under this: strictly between
  bool are_one;

  __device__ __forceinline__ RawEdges(const Edges<Key>& edges, Key flip)
      : lo(raw_bound<F>(edges.lo, flip)),
        inside(raw_bound<F>(edges.hi + 1, flip) - lo),
        above_lo(raw_bound<F>(edges.lo + 1, flip)),
        between(edges.lo < edges.hi ? raw_bound<F>(edges.hi, flip) - above_lo : 0),
        are_one(edges.lo == edges.hi) {}
};

// Entries of a lane's vectors, a bit each: that of entry e of vector v is v * N + e.
struct Found {
  unsigned active = 0;
  unsigned pruned = 0;
  unsigned inside = 0;
  unsigned between = 0;

  __device__ __forceinline__ void keep(unsigned there) {
    active &= there;
    pruned &= there;
    inside &= there;
    between &= there;
  }
};

// The new mask of a vector, whose first entry has bit `bit`. Raw keys under `limit` are pruned.
// kActive: all entries are active.
template <bool kActive, int N, class F, class M>
__device__ __forceinline__ Vec<M, N> sweep_vec(const Packed<typename F::Bits, N>& packed_scores,
                                               const Packed<M, N>& old, int bit,
                                               const RawEdges<F>& edges, typename F::Key limit,
                                               const SelectionOptions& options, Found& found) {
  using Key = typename F::Key;
  const Key flip = static_cast<Key>(options.flip);
  const auto scores = packed_scores.unpack();
  auto mask = old.unpack();
#pragma unroll
  for (int e = 0; e < N; ++e) {
    const bool on = kActive || is_active<F, M>(mask.at[e], options);
    const Key key = raw_key<F>(scores.at[e], flip);
    const bool pruned = on && key < limit;
    const unsigned own = 1u << (bit + e);
    found.active |= on ? own : 0;
    found.pruned |= pruned ? own : 0;
    found.inside |= on && static_cast<Key>(key - edges.lo) < edges.inside ? own : 0;
    found.between |= on && static_cast<Key>(key - edges.above_lo) < edges.between ? own : 0;
    if (pruned) mask.at[e] = M{0};
  }
  return mask;
}

// Vectors of a step.
template <int N>
constexpr int kStepVecs = TopkPolicy::step_vecs(N);

// A block's vectors: each thread's next one is so many entries on.
template <int N>
constexpr int kApart = TopkPolicy::kThreads * N;

// How far the entry of a bit is from the lane's first.
template <int N>
__device__ __forceinline__ int offset_of(unsigned bit) {
  return static_cast<int>(bit / N * kApart<N> + bit % N);
}

// A step of kStepVecs vectors of a lane, the first at `at` of a tensor, all whole and aligned.
// `limit`: of vector v. kMasked: there is an old mask.
template <bool kMasked, int N, class F, class M, class Limit>
__device__ __forceinline__ Found sweep_whole(const TensorItem& item, int64_t at,
                                             const RawEdges<F>& edges, const Limit& limit,
                                             const SelectionOptions& options) {
  using Bits = typename F::Bits;
  constexpr int kVecs = kStepVecs<N>;
  const auto span = span_at<Bits, M>(item, at, kVecs * kApart<N>);
  Packed<Bits, N> scores[kVecs];
  Packed<M, N> old[kVecs];
#pragma unroll
  for (int v = 0; v < kVecs; ++v) scores[v] = pack(load_vec<N>(span.scores + v * kApart<N>));
#pragma unroll
  for (int v = 0; v < kVecs; ++v) {
    old[v] = kMasked ? pack(load_vec<N>(span.mask + v * kApart<N>)) : ones<N, M>(options);
  }
  Found found;
#pragma unroll
  for (int v = 0; v < kVecs; ++v) {
    const auto mask =
        sweep_vec<!kMasked, N, F, M>(scores[v], old[v], v * N, edges, limit(v), options, found);
    store_vec<N>(span.out + v * kApart<N>, mask);
    if constexpr (can_multiply<F, M>(kFusion, /*has_old_mask=*/true)) {
      if (span.product == nullptr) continue;
      const auto t = span.t == span.scores ? scores[v] : pack(load_vec<N>(span.t + v * kApart<N>));
      store_vec<N>(span.product + v * kApart<N>, product_of<N, F, M>(mask, t));
    }
  }
  return found;
}

// One vector of a lane, wherever it is; nothing if the lane has no entries there.
template <int N, class F, class M>
__device__ __forceinline__ Found sweep_any(const TensorItem& item, const Place& place,
                                           const RawEdges<F>& edges, typename F::Key limit,
                                           const SelectionOptions& options) {
  Found found;
  if (place.left <= 0) return found;
  const auto span = span_at<typename F::Bits, M>(item, place.at, place.left);
  const auto entries = load_entries<N, F, M>(span, 0, options);
  const auto mask =
      sweep_vec<false, N, F, M>(entries.scores, entries.mask, 0, edges, limit, options, found);
  write<N, F, M>(span.out, span.product, place.left, mask, entries.t);
  if (place.left < N) found.keep((1u << place.left) - 1);
  return found;
}

// A lane stages its candidates, the entries with a bit in `between`. Returns false if there is no
// room; they are left for after flush() then. One atomic for each lane that has any takes fewer
// instructions than a ballot over all. `bits_at`: the score of a bit, which is loaded again, as
// that is cheaper than choosing a register by an index.
template <int N, class F, class BitsAt>
__device__ __forceinline__ bool stage(Staging<F>& staging, unsigned between, const BitsAt& bits_at,
                                      typename F::Key flip, int offset) {
  static_assert(TopkPolicy::kStaged >= kStepVecs<N> * N, "a lane has room if it is first");
  if (between == 0) return true;
  const auto count = static_cast<unsigned>(__popc(between));
  unsigned at = atomicAdd(&staging.count, count);
  if (at + count > TopkPolicy::kStaged) {
    // Of the lanes that find no room, the first: those after it begin beyond.
    if (at <= TopkPolicy::kStaged) staging.full_at = at;
    return false;
  }
  for (; between != 0; between &= between - 1, ++at) {
    const auto bit = static_cast<unsigned>(__ffs(static_cast<int>(between)) - 1);
    staging.keys[at] = static_cast<typename F::Bits>(rank_key<F>(bits_at(bit), flip));
    staging.offsets[at] = static_cast<uint16_t>(offset + offset_of<N>(bit));
  }
  return true;
}

// A warp adds its ties with the edges, the bits in `ties`, to those of their tiles. `entry`: of the
// lane's first bit, in the batch. All lanes call this.
template <int N, class F, class BitsAt>
__device__ __forceinline__ void count_edge_ties(Staging<F>& staging, unsigned ties,
                                                const BitsAt& bits_at, const RawEdges<F>& edges,
                                                typename F::Key flip, int entry) {
  unsigned lo = ties;
  if (!edges.are_one) {
    for (unsigned left = ties; left != 0; left &= left - 1) {
      const auto bit = static_cast<unsigned>(__ffs(static_cast<int>(left)) - 1);
      if (raw_key<F>(bits_at(bit), flip) >= edges.above_lo) lo &= ~(1u << bit);
    }
  }
  constexpr unsigned kVec = (1u << N) - 1;
#pragma unroll 1
  for (int v = 0; v < kStepVecs<N>; ++v) {
    const unsigned of_vec = kVec << (v * N);
    const unsigned found = warp_sum(edge_ties(__popc(lo & of_vec), __popc(ties & ~lo & of_vec)));
    if (found != 0 && threadIdx.x % 32 == 0) {
      atomicAdd(&staging.edge_ties[(entry + v * kApart<N>) / kTile], found);
    }
  }
}

// The block writes the staged candidates to memory, if there is room, and clears them.
template <class F>
__device__ __forceinline__ void flush(Staging<F>& staging, const TopkWork<F>& work, int batch) {
  const unsigned count = staging.count <= TopkPolicy::kStaged ? staging.count : staging.full_at;
  const auto fits = [&](unsigned long long begin) {
    return begin + count <= static_cast<unsigned long long>(work.room);
  };
  if (threadIdx.x == 0 && count > 0) {
    const unsigned long long begin = atomicAdd(&work.state->counts.between, count + 0ull);
    staging.begin = begin;
    if (fits(begin)) {
      work.batches[atomicAdd(&work.state->batches, 1u)] = {batch, static_cast<unsigned>(begin),
                                                           count};
    }
  }
  __syncthreads();  // `begin` is written, and `count` has been read
  if (threadIdx.x == 0) staging.count = 0;
  if (count == 0 || !fits(staging.begin)) return;
  for (unsigned j = threadIdx.x; j < count; j += TopkPolicy::kThreads) {
    work.keys[staging.begin + j] = staging.keys[j];
    work.offsets[staging.begin + j] = staging.offsets[j];
  }
}

// A block sweeps a range of tiles. With `count` it adds what it found to the counts. Afterwards all
// of its threads see what it wrote about its tiles.
template <class F, class M>
__device__ __forceinline__ void sweep_tiles(const TensorList& list, const SelectionOptions& options,
                                            const TopkWork<F>& work,
                                            const Edges<typename F::Key>& edges, bool count,
                                            TileRange range) {
  using Reduce = cub::BlockReduce<unsigned long long, TopkPolicy::kThreads>;
  constexpr int N = vec_entries<typename F::Bits, M>();
  FASTPRUNE_SHARED(Staging<F>, staging);
  FASTPRUNE_SHARED(typename Reduce::TempStorage, reduce);
  if (threadIdx.x == 0) staging.count = staging.ties_lo = staging.ties_hi = 0;
  if (threadIdx.x < TopkPolicy::kBatchTiles) staging.edge_ties[threadIdx.x] = 0;
  __syncthreads();  // `staging` is cleared

  // Entries are numbered from the first of the range; a warp's vectors are each in one tile. What
  // `entry` and `place` say is of a lane's first vector in the step.
  static_assert(kTile % (32 * N) == 0, "a warp's vectors are in one tile");
  static_assert(kStepVecs<N> * N <= 32, "a bit for each entry of a step");
  constexpr int kReach = (kStepVecs<N> - 1) * kApart<N> + 32 * N;  // of a warp
  const int tiles = range.last - range.first;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const auto flip = static_cast<typename F::Key>(options.flip);
  const RawEdges<F> raw_edges(edges, flip);
  const auto pivot_kept = raw_bound<F>(edges.pivot, flip);
  const auto pivot_pruned = raw_bound<F>(edges.pivot + 1, flip);
  const auto limit_of = [&](int at) {
    return range.first + at / kTile < edges.pivot_tile ? pivot_pruned : pivot_kept;
  };
  TileWalk walk(list, range.first);
  int entry = static_cast<int>(threadIdx.x) * N;
  int vecs = 0;  // of the step
  Place place{};
  const auto bits_at = [&](unsigned bit) {
    typename F::Bits bits{};
    walk.with_item(place, [&](const TensorItem& item) {
      const auto span = span_at<typename F::Bits, M>(item, place.at + offset_of<N>(bit), 1);
      bits = load_scores<1, F, M>(span, 0, 1).unpack().at[0];
    });
    return bits;
  };
  unsigned between = 0;  // candidates that are not staged
  bool pending = false;  // a lane's candidates found no room
  Totals totals;
  for (int batch = 0; batch < tiles; batch += TopkPolicy::kBatchTiles) {
    const int full = batch + TopkPolicy::kBatchTiles;
    const int end = (full < tiles ? full : tiles) * kTile;
    bool again = false;
    do {
      while (entry < end) {
        if (!pending) {
          place = walk.place(range.first + entry / kTile, entry % kTile);
          Found found;
          walk.with_item(place, [&](const TensorItem& item) {
            const bool whole = !kIsScaled<F> && item.vectorized &&
                               entry - lane * N + kReach <= end &&
                               place.at - lane * N + kReach <= item.size;
            vecs = whole ? kStepVecs<N> : 1;
            const auto limit = [&](int v) { return limit_of(entry + v * kApart<N>); };
            if (whole && item.mask == nullptr) {
              found = sweep_whole<false, N, F, M>(item, place.at, raw_edges, limit, options);
            } else if (whole) {
              found = sweep_whole<true, N, F, M>(item, place.at, raw_edges, limit, options);
            } else {
              found = sweep_any<N, F, M>(item, place, raw_edges, limit(0), options);
            }
          });
          totals.active += __popc(found.active);
          totals.below += __popc(found.pruned & ~found.inside);
          between = found.between;
          const unsigned ties = found.inside & ~between;
          if (__any_sync(0xffffffffu, ties != 0)) {
            count_edge_ties<N, F>(staging, ties, bits_at, raw_edges, flip, entry - batch * kTile);
          }
        }
        const bool staged = stage<N, F>(staging, between, bits_at, flip, entry - batch * kTile);
        if (staged) between = 0;
        pending = __any_sync(0xffffffffu, !staged) != 0;
        if (pending) break;
        entry += vecs * kApart<N>;
      }
      again = __syncthreads_or(pending) != 0;
      flush<F>(staging, work, range.first + batch);
      const int in_batch = end / kTile - batch;
      if (!again && static_cast<int>(threadIdx.x) < in_batch) {
        const EdgeTies ties{staging.edge_ties[threadIdx.x]};
        staging.edge_ties[threadIdx.x] = 0;
        work.edge_ties[range.first + batch + threadIdx.x] = ties.word;
        work.ties[range.first + batch + threadIdx.x] = 0;
        if (ties.lo() > 0) atomicAdd(&staging.ties_lo, ties.lo());
        if (ties.hi() > 0) atomicAdd(&staging.ties_hi, ties.hi());
      }
      __syncthreads();  // `staging` is free again
    } while (again);
  }
  if (!count) return;
  const unsigned long long active = Reduce(reduce).Sum(totals.active);
  __syncthreads();  // before `reduce` is reused
  const unsigned long long below = Reduce(reduce).Sum(totals.below);
  if (threadIdx.x == 0) {
    SweepCounts& counts = work.state->counts;
    atomicAdd(&counts.active, active);
    atomicAdd(&counts.below, below);
    if (staging.ties_lo > 0) atomicAdd(&counts.ties_lo, staging.ties_lo + 0ull);
    if (staging.ties_hi > 0) atomicAdd(&counts.ties_hi, staging.ties_hi + 0ull);
  }
}

// Where the threshold is, as the sweep's counts tell: among the candidates, or, if the bracket
// missed it or the candidates had no room, among all entries.
template <class Key>
struct SweepResult {
  Source source;
  Bracket<Key> bracket;
};

// Prunes `wanted` entries. `fits`: all candidates are stored.
template <class F>
__device__ __forceinline__ SweepResult<typename F::Key> locate_threshold(
    const SweepCounts& counts, const Edges<typename F::Key>& edges, int64_t wanted, bool fits) {
  using Key = typename F::Key;
  const auto below = static_cast<int64_t>(counts.below);
  const auto ties_lo = static_cast<int64_t>(counts.ties_lo);
  const auto ties_hi = static_cast<int64_t>(counts.ties_hi);
  const auto between = static_cast<int64_t>(counts.between);
  const Key lo = edges.lo;
  const Key hi = edges.hi;
  const int64_t rank = wanted - below;
  const bool missed = rank < 0 || rank > ties_lo + between + ties_hi;
  if (missed || !fits) {
    return {Source::kEverything, whole_range<F>(wanted, static_cast<int64_t>(counts.active))};
  }
  if (rank <= ties_lo) return {Source::kCandidates, {lo, lo, below, rank, ties_lo}};
  const int64_t among = rank - ties_lo;
  if (among <= between) {
    return {Source::kCandidates, {lo + 1, hi - 1, below + ties_lo, among, between}};
  }
  return {Source::kCandidates, {hi, hi, below + ties_lo + between, among - between, ties_hi}};
}

// The same of this list alone, by the last block of the sweep.
template <class F>
__device__ __forceinline__ SweepResult<typename F::Key> locate_threshold(
    const TopkWork<F>& work, const SelectionOptions& options) {
  const SweepCounts& c = work.state->counts;
  const SweepCounts counts{load_fresh(&c.active), load_fresh(&c.below), load_fresh(&c.ties_lo),
                           load_fresh(&c.ties_hi), load_fresh(&c.between)};
  const bool fits = counts.between <= static_cast<unsigned long long>(work.room);
  const int64_t wanted = bounded_budget(options.amount, static_cast<int64_t>(counts.active));
  return locate_threshold<F>(counts, work.state->edges, wanted, fits);
}

}  // namespace fastprune::cuda
