// Vectorized access: a thread loads and stores neighbouring entries together, 16 bytes of the
// widest type and as many entries of the narrower ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda/util/device.cuh"

namespace fastprune::cuda {

constexpr int kVecBytes = 16;

template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  T at[N];
};

// Entries of a vector, for operands of these types.
template <class... T>
constexpr int vec_entries() {
  size_t widest = 1;
  for (size_t bytes : {sizeof(T)...}) widest = bytes > widest ? bytes : widest;
  return static_cast<int>(kVecBytes / widest);
}

inline bool is_aligned(const void* p, size_t bytes = kVecBytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

template <int N, class T>
__device__ __forceinline__ Vec<T, N> load_vec(const T* p) {
#ifdef __CUDA_ARCH__
  __builtin_assume(__isGlobal(p));  // nvcc cannot tell for a pointer that was read from memory
#endif
  return cuda::load(reinterpret_cast<const Vec<T, N>*>(p));
}

// The register type of so many bytes.
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

// One store of the whole vector. Without the copy to a word, nvcc splits the store where entries
// were selected one by one.
template <int N, class T>
__device__ __forceinline__ void store_vec(T* p, const Vec<T, N>& vec) {
  typename Word<sizeof(vec)>::type word;
  memcpy(&word, static_cast<const void*>(&vec), sizeof(word));
  __stcg(reinterpret_cast<decltype(word)*>(p), word);
}

// A vector in as few registers as it fills. Of a Vec whose entries are used one by one, nvcc keeps
// each in a register of its own: what lives on is better packed.
template <class T, int N>
struct Packed {
  typename Word<sizeof(Vec<T, N>)>::type word;

  __device__ __forceinline__ Vec<T, N> unpack() const {
    Vec<T, N> vec;
    memcpy(static_cast<void*>(&vec), &word, sizeof(word));
    return vec;
  }

  // Entry e, which is not known at compile time: selects a register, and shifts.
  __device__ __forceinline__ T entry(int e) const {
    using Part = std::conditional_t<(sizeof(T) < 4 && sizeof(word) >= 4), unsigned, T>;
    constexpr int kEach = static_cast<int>(sizeof(Part) / sizeof(T));
    Part parts[sizeof(word) / sizeof(Part)];
    memcpy(static_cast<void*>(parts), &word, sizeof(word));
    // By the bits of the index, from the highest on: no array in local memory.
#pragma unroll
    for (int half = N / kEach / 2; half > 0; half /= 2) {
#pragma unroll
      for (int p = 0; p < half; ++p) {
        parts[p] = (e / kEach & half) != 0 ? parts[p + half] : parts[p];
      }
    }
    if constexpr (kEach == 1) {
      return parts[0];
    } else {
      return static_cast<T>(parts[0] >> (e % kEach * 8 * static_cast<int>(sizeof(T))));
    }
  }
};

template <class T, int N>
__device__ __forceinline__ Packed<T, N> pack(const Vec<T, N>& vec) {
  Packed<T, N> packed;
  memcpy(&packed.word, static_cast<const void*>(&vec), sizeof(packed.word));
  return packed;
}

// N entries, of which `left` are there, at least one: with one load if that can be. The others get
// any value.
template <int N, class T>
__device__ __forceinline__ Packed<T, N> load_some(const T* p, int left, bool vectorized) {
  if (vectorized && left >= N) return pack(load_vec<N>(p));
  Vec<T, N> vec;
#pragma unroll
  for (int e = 0; e < N; ++e) vec.at[e] = load_vec<1>(p + (e < left ? e : left - 1)).at[0];
  return pack(vec);
}

// Stores them. `p` is aligned for vectors.
template <int N, class T>
__device__ __forceinline__ void store_some(T* p, const Vec<T, N>& vec, int left) {
  if (left >= N) {
    store_vec<N>(p, vec);
    return;
  }
#pragma unroll
  for (int e = 0; e < N; ++e) {
    if (e < left) store_vec<1>(p + e, Vec<T, 1>{{vec.at[e]}});
  }
}

// Vectors of N that a thread has in flight: its share of a tile, at most four.
template <int N, int kBlockThreads>
constexpr int vecs_in_flight() {
  static_assert(kTile % kBlockThreads == 0, "every thread has the same share of a tile");
  constexpr int kShare = kTile / kBlockThreads / N;
  return kShare < 1 ? 1 : kShare > 4 ? 4 : kShare;
}

constexpr int kSinglesInFlight = 4;  // of a thread, where entries are not aligned for vectors

template <int N>
struct Width {
  static constexpr int kEntries = N;
};

// A block visits entries [0, size): vectors of N, then the remaining entries one by one; all
// entries one by one unless `vectorized`. `load(Width<n>, i)` loads entries [i, i + n), and
// `use(Width<n>, i, fetched)` processes them. A thread has up to kInFlight loads in flight.
template <int N, int kInFlight, int kBlockThreads, class Load, class Use>
__device__ __forceinline__ void for_each_vec(int size, bool vectorized, const Load& load,
                                             const Use& use) {
  constexpr int kStride = kBlockThreads * N;
  const int in_vecs = vectorized ? size / N * N : 0;
  int i = static_cast<int>(threadIdx.x) * N;
  for (; i + (kInFlight - 1) * kStride < in_vecs; i += kInFlight * kStride) {
    decltype(load(Width<N>{}, i)) fetched[kInFlight];
#pragma unroll
    for (int p = 0; p < kInFlight; ++p) fetched[p] = load(Width<N>{}, i + p * kStride);
#pragma unroll
    for (int p = 0; p < kInFlight; ++p) use(Width<N>{}, i + p * kStride, fetched[p]);
  }
  for (; i < in_vecs; i += kStride) use(Width<N>{}, i, load(Width<N>{}, i));
  int j = in_vecs + static_cast<int>(threadIdx.x);
  for (; j + (kSinglesInFlight - 1) * kBlockThreads < size; j += kSinglesInFlight * kBlockThreads) {
    decltype(load(Width<1>{}, j)) fetched[kSinglesInFlight];
#pragma unroll
    for (int p = 0; p < kSinglesInFlight; ++p) fetched[p] = load(Width<1>{}, j + p * kBlockThreads);
#pragma unroll
    for (int p = 0; p < kSinglesInFlight; ++p) use(Width<1>{}, j + p * kBlockThreads, fetched[p]);
  }
  for (; j < size; j += kBlockThreads) use(Width<1>{}, j, load(Width<1>{}, j));
}

}  // namespace fastprune::cuda
