// Kernels of topk_masks, in the order they run: bracket (histogram, narrow), sweep, settle (quotas,
// ties). Raw pointers, no torch headers.
#pragma once

#include "device.cuh"
#include "segments.cuh"

namespace fastprune::cuda {

constexpr int kBins = 1 << kDigitBits;

// Lives on the device: nothing of it is needed on the host for a fraction.
template <class Key>
struct SelectionState {
  Bracket<Key> bracket;
  int64_t active;
};

struct SelectionOptions {
  Amount amount;
  uint64_t one;      // bits of an active mask entry
  uint64_t flip;     // see rank_key
  bool active_only;  // else all entries are active
};

template <class F, class M>
__device__ __forceinline__ bool is_active(const TileSpan<typename F::Bits, M>& span, int i,
                                          const SelectionOptions& options) {
  return !options.active_only || span.mask == nullptr ||
         span.mask[i] == static_cast<M>(options.one);
}

// ---- bracket ----

// Counts the bracket's active keys by their next digit. Before the first pass the bracket is every
// key, whatever `state` holds.
template <class F, class M>
__global__ void __launch_bounds__(kThreads)
    topk_histogram_kernel(const SegmentList list, const SelectionOptions options, int pass,
                          const SelectionState<typename F::Key>* state,
                          unsigned long long* counts) {
  using Key = typename F::Key;
  FASTPRUNE_SHARED(unsigned[kBins], bins);
  const Digit digit = digit_of_pass(F::kKeyBits, kDigitBits, pass);
  const Key lo = pass == 0 ? Key{0} : state->bracket.lo;
  const Key hi = pass == 0 ? max_key<F>() : state->bracket.hi;
  if (pass > 0 && lo == hi) return;  // decided early: nothing is to be pruned
  for (int b = threadIdx.x; b < kBins; b += kThreads) bins[b] = 0;
  __syncthreads();
  // A thread adds a run of equal bins at once: equal keys would else queue at one address.
  int run_bin = -1;
  unsigned run = 0;
  for (int64_t tile = blockIdx.x; tile < list.tiles; tile += gridDim.x) {
    const auto span = tile_span<typename F::Bits, M>(list, tile);
    for (int i = threadIdx.x; i < span.size; i += kThreads) {
      const Key key = rank_key<F>(span.scores[i], static_cast<Key>(options.flip));
      if (!in_bracket(key, lo, hi) || !is_active<F, M>(span, i, options)) continue;
      const int bin = static_cast<int>((key - lo) >> digit.shift);
      if (bin != run_bin) {
        if (run > 0) atomicAdd(&bins[run_bin], run);
        run_bin = bin;
        run = 0;
      }
      ++run;
    }
  }
  if (run > 0) atomicAdd(&bins[run_bin], run);
  __syncthreads();
  for (int b = threadIdx.x; b < kBins; b += kThreads) {
    if (bins[b] > 0) atomicAdd(&counts[b], static_cast<unsigned long long>(bins[b]));
  }
}

// One block: picks the bin the threshold lies in and clears the counts for the next pass.
template <class F>
__global__ void __launch_bounds__(kThreads)
    topk_narrow_kernel(const Amount amount, int pass, SelectionState<typename F::Key>* state,
                       unsigned long long* counts) {
  using Key = typename F::Key;
  using Scan = cub::BlockScan<long long, kThreads>;
  constexpr int kPerThread = (kBins + kThreads - 1) / kThreads;
  FASTPRUNE_SHARED(typename Scan::TempStorage, scan);
  FASTPRUNE_SHARED(Bracket<Key>, bracket);
  const Digit digit = digit_of_pass(F::kKeyBits, kDigitBits, pass);
  const int first = threadIdx.x * kPerThread;
  long long mine = 0;
  for (int b = first; b < first + kPerThread && b < kBins; ++b) {
    mine += static_cast<long long>(counts[b]);
  }
  long long before = 0;
  long long total = 0;
  Scan(scan).ExclusiveSum(mine, before, total);
  if (threadIdx.x == 0) {
    if (pass == 0) {
      const int64_t wanted = budget(amount, total);
      // The host refuses a count beyond `active`; until it has looked, stay within bounds.
      bracket = {Key{0}, max_key<F>(), 0, wanted < total ? wanted : total, total};
      state->active = total;
      if (bracket.rank == 0) bracket = {Key{0}, Key{0}, 0, 0, 0};
    } else {
      bracket = state->bracket;
    }
  }
  __syncthreads();
  const Bracket<Key> current = bracket;
  if (current.lo == current.hi) {
    if (threadIdx.x == 0) state->bracket = current;
  } else if (before < current.rank && current.rank <= before + mine) {  // true in one thread
    int b = first;
    while (before + static_cast<long long>(counts[b]) < current.rank) {
      before += static_cast<long long>(counts[b++]);
    }
    state->bracket = narrow(current, digit, b, before, static_cast<int64_t>(counts[b]));
  }
  for (int b = first; b < first + kPerThread && b < kBins; ++b) counts[b] = 0;
}

// ---- sweep ----

// The bracket is one key by now. Writes every entry that differs from it, keeps those that equal it
// and counts them by tile.
template <class F, class M>
__global__ void __launch_bounds__(kThreads)
    topk_sweep_kernel(const SegmentList list, const SelectionOptions options,
                      const SelectionState<typename F::Key>* state, int* tile_ties) {
  using Key = typename F::Key;
  using Reduce = cub::BlockReduce<int, kThreads>;
  FASTPRUNE_SHARED(typename Reduce::TempStorage, reduce);
  const Key threshold = state->bracket.lo;
  for (int64_t tile = blockIdx.x; tile < list.tiles; tile += gridDim.x) {
    const auto span = tile_span<typename F::Bits, M>(list, tile);
    int ties = 0;
    for (int i = threadIdx.x; i < span.size; i += kThreads) {
      const Key key = rank_key<F>(span.scores[i], static_cast<Key>(options.flip));
      const M old = span.mask == nullptr ? static_cast<M>(options.one) : span.mask[i];
      const bool active = is_active<F, M>(span, i, options);
      span.out[i] = active && key < threshold ? M{0} : old;
      ties += active && key == threshold;
    }
    const int sum = Reduce(reduce).Sum(ties);
    if (threadIdx.x == 0) tile_ties[tile] = sum;
    __syncthreads();  // before the next tile uses `reduce`
  }
}

// ---- settle ----

// One block: turns the number of ties of each tile into how many of them to prune, lowest index
// first.
template <class Key>
__global__ void __launch_bounds__(kThreads)
    topk_quota_kernel(const SelectionState<Key>* state, int64_t tiles, int* tile_ties) {
  using Scan = cub::BlockScan<long long, kThreads>;
  FASTPRUNE_SHARED(typename Scan::TempStorage, scan);
  long long left = state->bracket.rank;
  for (int64_t first = 0; first < tiles; first += kThreads) {
    const int64_t tile = first + threadIdx.x;
    const long long ties = tile < tiles ? tile_ties[tile] : 0;
    long long before = 0;
    long long total = 0;
    Scan(scan).ExclusiveSum(ties, before, total);
    if (tile < tiles) {
      const long long due = left - before;
      tile_ties[tile] = static_cast<int>(due <= 0 ? 0 : (due < ties ? due : ties));
    }
    left = left > total ? left - total : 0;
    __syncthreads();  // before the next round uses `scan`
  }
}

// Prunes the first ties of each tile that has a quota, kThreads entries at a time in order of
// index.
template <class F, class M>
__global__ void __launch_bounds__(kThreads)
    topk_ties_kernel(const SegmentList list, const SelectionOptions options,
                     const SelectionState<typename F::Key>* state, const int* tile_quota) {
  using Key = typename F::Key;
  using Scan = cub::BlockScan<int, kThreads>;
  FASTPRUNE_SHARED(typename Scan::TempStorage, scan);
  const Key threshold = state->bracket.lo;
  for (int64_t tile = blockIdx.x; tile < list.tiles; tile += gridDim.x) {
    const auto span = tile_span<typename F::Bits, M>(list, tile);
    int due = tile_quota[tile];
    for (int first = 0; due > 0 && first < span.size; first += kThreads) {
      const int i = first + threadIdx.x;
      const bool tie = i < span.size &&
                       rank_key<F>(span.scores[i], static_cast<Key>(options.flip)) == threshold &&
                       is_active<F, M>(span, i, options);
      int before = 0;
      int total = 0;
      Scan(scan).ExclusiveSum(static_cast<int>(tie), before, total);
      if (tie && before < due) span.out[i] = M{0};
      due -= total;
      __syncthreads();  // before the next round uses `scan`
    }
  }
}

}  // namespace fastprune::cuda
