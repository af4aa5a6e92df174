// topk_masks on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here what a
// block of the sweep keeps in shared memory until the end of a batch: candidates, and ties with the
// edges by tile.
#pragma once

#include "cuda/topk/step.cuh"

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

}  // namespace fastprune::cuda
