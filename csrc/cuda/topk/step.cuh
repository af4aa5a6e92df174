// topk_masks on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here a step of
// the sweep: the vectors that a thread loads together, so that many loads are under way, and what
// it finds in them, so that what is done once a step is shared by many entries.
#pragma once

#include "cuda/topk/state.cuh"

namespace fastprune::cuda {

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

}  // namespace fastprune::cuda
