// Packs: neighbouring entries that one thread loads and stores together, 16 bytes of the widest
// type and as many entries of the narrower ones.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/util/device.cuh"

namespace fastprune::cuda {

constexpr int kPackBytes = 16;

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};

template <class... T>
constexpr int pack_entries() {
  size_t widest = 1;
  for (size_t bytes : {sizeof(T)...}) widest = bytes > widest ? bytes : widest;
  return static_cast<int>(kPackBytes / widest);
}

template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_pack(const T* p) {
#ifdef __CUDA_ARCH__
  __builtin_assume(__isGlobal(p));  // which nvcc cannot know of a pointer that came from memory
#endif
  return cuda::load(reinterpret_cast<const Pack<T, N>*>(p));
}

// What so many bytes are in a register, or in several.
template <int Bytes>
struct Word;
template <>
struct Word<1> {
  using type = unsigned char;
};
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};

// In one store whatever comes before it: left to itself, nvcc stores an array whose entries are
// chosen one by one in as many stores.
template <int N, class T>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, N>& pack) {
  typename Word<sizeof(pack)>::type word;
  memcpy(&word, static_cast<const void*>(&pack), sizeof(word));
  __stcg(reinterpret_cast<decltype(word)*>(p), word);
}

// Packs of N that a thread has under way: what its share of a tile is, but not above four.
template <int N, int kBlockThreads>
constexpr int packs_in_flight() {
  static_assert(kTile % kBlockThreads == 0, "every thread has the same share of a tile");
  constexpr int kShare = kTile / kBlockThreads / N;
  return kShare < 1 ? 1 : kShare > 4 ? 4 : kShare;
}

template <int N>
struct Width {
  static constexpr int kEntries = N;
};

// A block's way through entries [0, size): packs of N, then what is left one by one, and all of it
// one by one where memory is not aligned for packs (`wide`). `load(Width<n>, i)` fetches entries i
// to i + n, `use(Width<n>, i, fetched)` takes them; a thread has up to kInFlight loads under way.
template <int N, int kInFlight, int kBlockThreads, class Load, class Use>
__device__ __forceinline__ void for_each_pack(int size, bool wide, const Load& load,
                                              const Use& use) {
  constexpr int kStride = kBlockThreads * N;
  const int packed = wide ? size / N * N : 0;
  int i = static_cast<int>(threadIdx.x) * N;
  for (; i + (kInFlight - 1) * kStride < packed; i += kInFlight * kStride) {
    decltype(load(Width<N>{}, i)) fetched[kInFlight];
#pragma unroll
    for (int p = 0; p < kInFlight; ++p) fetched[p] = load(Width<N>{}, i + p * kStride);
#pragma unroll
    for (int p = 0; p < kInFlight; ++p) use(Width<N>{}, i + p * kStride, fetched[p]);
  }
  for (; i < packed; i += kStride) use(Width<N>{}, i, load(Width<N>{}, i));
  for (int j = packed + static_cast<int>(threadIdx.x); j < size; j += kBlockThreads) {
    use(Width<1>{}, j, load(Width<1>{}, j));
  }
}

}  // namespace fastprune::cuda
