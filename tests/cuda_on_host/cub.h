// The CUB block and warp primitives that the kernels use, on the emulator's barriers.
//
// They are as strict as CUB's. A reduction's result is poison except in the first thread. Threads
// read each other's slots of TempStorage after the last barrier inside, so that reusing the storage
// without another barrier gives wrong results with some seeds. Always inlined, as access.h.
#pragma once

#include <string>

#include "machine.h"
#include "sync.h"

namespace cub {

enum BlockReduceAlgorithm {
  BLOCK_REDUCE_RAKING_COMMUTATIVE_ONLY,
  BLOCK_REDUCE_RAKING,
  BLOCK_REDUCE_WARP_REDUCTIONS
};
enum BlockScanAlgorithm { BLOCK_SCAN_RAKING, BLOCK_SCAN_RAKING_MEMOIZE, BLOCK_SCAN_WARP_SCANS };

namespace cuda_on_host_detail {

struct Plus {
  template <class T>
  T operator()(const T& a, const T& b) const {
    return static_cast<T>(a + b);
  }
};

// The cooperating threads: the whole block.
template <int THREADS>
struct BlockGroup {
  static unsigned rank() {
    cuda_on_host::require_kernel("a cub block primitive");
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    if (threads != THREADS) {
      cuda_on_host::fault("cub primitive for " + std::to_string(THREADS) +
                          " threads in a block of " + std::to_string(threads));
    }
    return cuda_on_host::machine.current()->linear;
  }
  static void sync() { __syncthreads(); }
};

// The cooperating threads: THREADS neighbouring lanes of a warp, all of them present.
template <int THREADS>
struct WarpGroup {
  static_assert(THREADS >= 1 && THREADS <= 32 && (THREADS & (THREADS - 1)) == 0, "");
  static unsigned rank() {
    const unsigned lane = static_cast<unsigned>(cuda_on_host::lane_id());
    const unsigned first = cuda_on_host::machine.current()->linear - lane % THREADS;
    if (first + THREADS > blockDim.x * blockDim.y * blockDim.z) {
      cuda_on_host::fault("cub warp primitive in a warp that is not whole");
    }
    return lane % THREADS;
  }
  static void sync() {
    const int first = cuda_on_host::lane_id() / THREADS * THREADS;
    __syncwarp((0xffffffffu >> (32 - THREADS)) << first);
  }
};

template <class T, int THREADS, class Group>
class GroupReduce {
 public:
  struct TempStorage {
    T slot[THREADS];
  };
  explicit GroupReduce(TempStorage& storage) : storage_(storage) {}

  __forceinline__ T Sum(T value) { return Reduce(value, Plus()); }
  __forceinline__ T Sum(T value, int valid) { return Reduce(value, Plus(), valid); }
  template <class Op>
  __forceinline__ T Reduce(T value, Op op, int valid = THREADS) {
    const unsigned rank = Group::rank();
    storage_.slot[rank] = value;
    Group::sync();
    if (rank != 0) return cuda_on_host::poison_value<T>();
    T total = storage_.slot[0];
    for (int i = 1; i < valid && i < THREADS; ++i) total = op(total, storage_.slot[i]);
    return total;
  }

 private:
  TempStorage& storage_;
};

template <class T, int THREADS, class Group>
class GroupScan {
 public:
  struct TempStorage {
    T slot[THREADS];
    T total;
  };
  explicit GroupScan(TempStorage& storage) : storage_(storage) {}

  __forceinline__ void InclusiveSum(T in, T& out) { InclusiveScan(in, out, Plus()); }
  __forceinline__ void InclusiveSum(T in, T& out, T& aggregate) {
    InclusiveScan(in, out, Plus(), aggregate);
  }
  template <class Op>
  __forceinline__ void InclusiveScan(T in, T& out, Op op) {
    T aggregate;
    InclusiveScan(in, out, op, aggregate);
  }
  template <class Op>
  __forceinline__ void InclusiveScan(T in, T& out, Op op, T& aggregate) {
    bool first;
    const T before = exclusive(in, op, first, aggregate);
    out = first ? in : op(before, in);
  }

  __forceinline__ void ExclusiveSum(T in, T& out) { ExclusiveScan(in, out, T(0), Plus()); }
  __forceinline__ void ExclusiveSum(T in, T& out, T& aggregate) {
    ExclusiveScan(in, out, T(0), Plus(), aggregate);
  }
  template <class Op>
  __forceinline__ void ExclusiveScan(T in, T& out, T initial, Op op) {
    T aggregate;
    ExclusiveScan(in, out, initial, op, aggregate);
  }
  // As in CUB, the aggregate excludes the initial value.
  template <class Op>
  __forceinline__ void ExclusiveScan(T in, T& out, T initial, Op op, T& aggregate) {
    bool first;
    const T before = exclusive(in, op, first, aggregate);
    out = first ? initial : op(initial, before);
  }

  template <int ITEMS>
  __forceinline__ void ExclusiveSum(T (&in)[ITEMS], T (&out)[ITEMS]) {
    T aggregate;
    ExclusiveSum(in, out, aggregate);
  }
  template <int ITEMS>
  __forceinline__ void ExclusiveSum(T (&in)[ITEMS], T (&out)[ITEMS], T& aggregate) {
    T running = scan_own_total(in, aggregate);
    for (int i = 0; i < ITEMS; ++i) {
      const T item = in[i];  // in and out may be the same array
      out[i] = running;
      running = static_cast<T>(running + item);
    }
  }
  template <int ITEMS>
  __forceinline__ void InclusiveSum(T (&in)[ITEMS], T (&out)[ITEMS]) {
    T aggregate;
    InclusiveSum(in, out, aggregate);
  }
  template <int ITEMS>
  __forceinline__ void InclusiveSum(T (&in)[ITEMS], T (&out)[ITEMS], T& aggregate) {
    T running = scan_own_total(in, aggregate);
    for (int i = 0; i < ITEMS; ++i) out[i] = running = static_cast<T>(running + in[i]);
  }

 private:
  template <int ITEMS>
  __forceinline__ T scan_own_total(T (&in)[ITEMS], T& aggregate) {
    T own = in[0];
    for (int i = 1; i < ITEMS; ++i) own = static_cast<T>(own + in[i]);
    T before;
    ExclusiveSum(own, before, aggregate);
    return before;
  }

  // The sum before this thread; poison in the first one.
  template <class Op>
  __forceinline__ T exclusive(T in, Op op, bool& first, T& aggregate) {
    const unsigned rank = Group::rank();
    storage_.slot[rank] = in;
    Group::sync();
    if (rank == 0) {  // makes the scan inclusive, in place
      for (int i = 1; i < THREADS; ++i) {
        storage_.slot[i] = op(storage_.slot[i - 1], storage_.slot[i]);
      }
      storage_.total = storage_.slot[THREADS - 1];
    }
    Group::sync();
    first = rank == 0;
    aggregate = storage_.total;
    return first ? cuda_on_host::poison_value<T>() : storage_.slot[rank - 1];
  }

  TempStorage& storage_;
};

}  // namespace cuda_on_host_detail

template <class T, int X, BlockReduceAlgorithm A = BLOCK_REDUCE_WARP_REDUCTIONS, int Y = 1,
          int Z = 1>
class BlockReduce
    : public cuda_on_host_detail::GroupReduce<T, X * Y * Z,
                                              cuda_on_host_detail::BlockGroup<X * Y * Z>> {
  using BlockReduce::GroupReduce::GroupReduce;
};

template <class T, int X, BlockScanAlgorithm A = BLOCK_SCAN_RAKING, int Y = 1, int Z = 1>
class BlockScan
    : public cuda_on_host_detail::GroupScan<T, X * Y * Z,
                                            cuda_on_host_detail::BlockGroup<X * Y * Z>> {
  using BlockScan::GroupScan::GroupScan;
};

template <class T, int LANES = 32>
class WarpReduce
    : public cuda_on_host_detail::GroupReduce<T, LANES, cuda_on_host_detail::WarpGroup<LANES>> {
  using WarpReduce::GroupReduce::GroupReduce;
};

template <class T, int LANES = 32>
class WarpScan
    : public cuda_on_host_detail::GroupScan<T, LANES, cuda_on_host_detail::WarpGroup<LANES>> {
  using WarpScan::GroupScan::GroupScan;
};

}  // namespace cub
