// Barriers and warp intrinsics.
//
// All lanes in a mask must reach the same intrinsic with the same mask. A mask may include lanes
// beyond the end of the block (0xffffffff in a partial last warp), but none that have exited. A
// shuffle from a lane outside the mask gives poison.
#pragma once

#include <cstdint>
#include <cstring>

#include "machine.h"

namespace cuda_on_host {

template <class T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8, "");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <class T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T>
T poison_value() {
  T value;
  std::memset(static_cast<void*>(&value), machine.random().poison(), sizeof(T));
  return value;
}

template <class Visit>
void for_each_lane(unsigned set, Visit visit) {
  for (; set != 0; set &= set - 1) visit(__builtin_ctz(set));
}

// Reduces the lanes' values, as T, and gives all of them the result.
template <class T, class Combine>
void fold(Lane* lanes, unsigned set, Combine combine) {
  T total = from_bits<T>(lanes[__builtin_ctz(set)].in);
  for_each_lane(set & (set - 1), [&](int i) { total = combine(total, from_bits<T>(lanes[i].in)); });
  for_each_lane(set, [&](int i) { lanes[i].out = to_bits(total); });
}

inline void resolve_ballot(Lane* lanes, unsigned set) {
  unsigned ballot = 0;
  for_each_lane(set, [&](int i) { ballot |= (lanes[i].in != 0 ? 1u : 0u) << i; });
  for_each_lane(set, [&](int i) { lanes[i].out = ballot; });
}

inline void resolve_all(Lane* lanes, unsigned set) {
  bool all = true;
  for_each_lane(set, [&](int i) { all = all && lanes[i].in != 0; });
  for_each_lane(set, [&](int i) { lanes[i].out = all; });
}

inline void resolve_match_any(Lane* lanes, unsigned set) {
  for_each_lane(set, [&](int i) {
    unsigned peers = 0;
    for_each_lane(set, [&](int j) { peers |= (lanes[i].in == lanes[j].in ? 1u : 0u) << j; });
    lanes[i].out = peers;
  });
}

inline void resolve_shuffle(Lane* lanes, unsigned set) {
  for_each_lane(set, [&](int i) {
    const int source = lanes[i].source;
    lanes[i].out = set >> source & 1 ? lanes[source].in : poison_value<uint64_t>();
  });
}

inline int lane_id() {
  require_kernel("a warp intrinsic");
  return static_cast<int>(machine.current()->linear % 32);
}

inline void check_width(int width) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
    fault("shuffle of width " + std::to_string(width) + ": it is a power of two up to 32");
  }
}

}  // namespace cuda_on_host

#define CUDA_ON_HOST_SITE cuda_on_host::Site site = cuda_on_host::Site::here()

inline void __syncthreads(CUDA_ON_HOST_SITE) {
  cuda_on_host::machine.meet_block("__syncthreads", false, site);
}
inline int __syncthreads_count(int predicate, CUDA_ON_HOST_SITE) {
  return static_cast<int>(
      cuda_on_host::machine.meet_block("__syncthreads_count", predicate != 0, site));
}
inline int __syncthreads_or(int predicate, CUDA_ON_HOST_SITE) {
  return cuda_on_host::machine.meet_block("__syncthreads_or", predicate != 0, site) != 0;
}
inline int __syncthreads_and(int predicate, CUDA_ON_HOST_SITE) {
  return cuda_on_host::machine.meet_block("__syncthreads_and", predicate == 0, site) == 0;
}

inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_ON_HOST_SITE) {
  cuda_on_host::machine.meet_warp("__syncwarp", mask, 0, 0, cuda_on_host::resolve_nothing, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_HOST_SITE) {
  return static_cast<unsigned>(cuda_on_host::machine.meet_warp(
      "__ballot_sync", mask, predicate != 0, 0, cuda_on_host::resolve_ballot, site));
}
inline int __any_sync(unsigned mask, int predicate, CUDA_ON_HOST_SITE) {
  return cuda_on_host::machine.meet_warp("__any_sync", mask, predicate != 0, 0,
                                         cuda_on_host::resolve_ballot, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CUDA_ON_HOST_SITE) {
  return cuda_on_host::machine.meet_warp("__all_sync", mask, predicate != 0, 0,
                                         cuda_on_host::resolve_all, site) != 0;
}
inline unsigned __activemask() {
  cuda_on_host::fault("__activemask is not emulated: it promises nothing that code can use");
}

// Overloads, not templates: a narrower argument converts as it does with nvcc.
#define CUDA_ON_HOST_SHUFFLE(T)                                                                    \
  inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDA_ON_HOST_SITE) {    \
    cuda_on_host::check_width(width);                                                              \
    const int base = cuda_on_host::lane_id() & ~(width - 1);                                       \
    return cuda_on_host::from_bits<T>(cuda_on_host::machine.meet_warp(                             \
        "__shfl_sync", mask, cuda_on_host::to_bits(value), base | (source & (width - 1)),          \
        cuda_on_host::resolve_shuffle, site));                                                     \
  }                                                                                                \
  inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,                  \
                          CUDA_ON_HOST_SITE) {                                                     \
    cuda_on_host::check_width(width);                                                              \
    const int self = cuda_on_host::lane_id();                                                      \
    const bool inside = delta <= static_cast<unsigned>(self & (width - 1));                        \
    return cuda_on_host::from_bits<T>(cuda_on_host::machine.meet_warp(                             \
        "__shfl_up_sync", mask, cuda_on_host::to_bits(value),                                      \
        inside ? self - static_cast<int>(delta) : self, cuda_on_host::resolve_shuffle, site));     \
  }                                                                                                \
  inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,                \
                            CUDA_ON_HOST_SITE) {                                                   \
    cuda_on_host::check_width(width);                                                              \
    const int self = cuda_on_host::lane_id();                                                      \
    const bool inside = delta < static_cast<unsigned>(width - (self & (width - 1)));               \
    return cuda_on_host::from_bits<T>(cuda_on_host::machine.meet_warp(                             \
        "__shfl_down_sync", mask, cuda_on_host::to_bits(value),                                    \
        inside ? self + static_cast<int>(delta) : self, cuda_on_host::resolve_shuffle, site));     \
  }                                                                                                \
  inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,                  \
                           CUDA_ON_HOST_SITE) {                                                    \
    cuda_on_host::check_width(width);                                                              \
    const int self = cuda_on_host::lane_id();                                                      \
    const int other = (self ^ lane_mask) & 31;                                                     \
    return cuda_on_host::from_bits<T>(cuda_on_host::machine.meet_warp(                             \
        "__shfl_xor_sync", mask, cuda_on_host::to_bits(value),                                     \
        other <= (self | (width - 1)) ? other : self, cuda_on_host::resolve_shuffle, site));       \
  }                                                                                                \
  inline unsigned __match_any_sync(unsigned mask, T value, CUDA_ON_HOST_SITE) {                    \
    return static_cast<unsigned>(                                                                  \
        cuda_on_host::machine.meet_warp("__match_any_sync", mask, cuda_on_host::to_bits(value), 0, \
                                        cuda_on_host::resolve_match_any, site));                   \
  }

CUDA_ON_HOST_SHUFFLE(int)
CUDA_ON_HOST_SHUFFLE(unsigned)
CUDA_ON_HOST_SHUFFLE(long)
CUDA_ON_HOST_SHUFFLE(unsigned long)
CUDA_ON_HOST_SHUFFLE(long long)
CUDA_ON_HOST_SHUFFLE(unsigned long long)
CUDA_ON_HOST_SHUFFLE(float)
CUDA_ON_HOST_SHUFFLE(double)
#undef CUDA_ON_HOST_SHUFFLE

#define CUDA_ON_HOST_REDUCE(name, T, expression)                                                  \
  inline T name(unsigned mask, T value, CUDA_ON_HOST_SITE) {                                      \
    return cuda_on_host::from_bits<T>(cuda_on_host::machine.meet_warp(                            \
        #name, mask, cuda_on_host::to_bits(value), 0,                                             \
        [](cuda_on_host::Lane* lanes, unsigned set) {                                             \
          cuda_on_host::fold<T>(lanes, set, [](T a, T b) { return static_cast<T>(expression); }); \
        },                                                                                        \
        site));                                                                                   \
  }

CUDA_ON_HOST_REDUCE(__reduce_add_sync, unsigned, a + b)
CUDA_ON_HOST_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
CUDA_ON_HOST_REDUCE(__reduce_max_sync, unsigned, a < b ? b : a)
CUDA_ON_HOST_REDUCE(__reduce_add_sync, int, static_cast<unsigned>(a) + static_cast<unsigned>(b))
CUDA_ON_HOST_REDUCE(__reduce_min_sync, int, a < b ? a : b)
CUDA_ON_HOST_REDUCE(__reduce_max_sync, int, a < b ? b : a)
CUDA_ON_HOST_REDUCE(__reduce_and_sync, unsigned, a& b)
CUDA_ON_HOST_REDUCE(__reduce_or_sync, unsigned, a | b)
CUDA_ON_HOST_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
#undef CUDA_ON_HOST_REDUCE
#undef CUDA_ON_HOST_SITE
