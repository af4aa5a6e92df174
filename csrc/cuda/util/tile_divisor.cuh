// Finds the channel of an entry of a tile without a division for each entry.
#pragma once

#include <cstdint>

#include "cuda/util/device.cuh"

namespace fastprune::cuda {

// Divides n < d + kTile by d. For d >= kTile the quotient is 0 or 1. For smaller d it is exactly
// n * inverse >> 32, where the inverse is 2^32 / d rounded up: n < 2^16 and d < 2^15 keep the error
// below 1 / d.
struct TileDivisor {
  int64_t d;
  uint64_t inverse;

  explicit TileDivisor(int64_t divisor)
      : d(divisor), inverse((uint64_t{1} << 32) / static_cast<uint64_t>(divisor) + 1) {}

  FASTPRUNE_HD int64_t quotient(int64_t n) const {
    return d >= kTile ? n >= d : static_cast<int64_t>(static_cast<uint64_t>(n) * inverse >> 32);
  }
};
static_assert(kTile <= 1 << 15, "quotients are exact");

// Divisors for a tensor seen as [outer, channels, inner].
struct TileChannels {
  TileDivisor channels;
  TileDivisor inner;
};

// The channel of an entry, and its position in the run of `inner` neighbours of that channel.
struct ChannelPlace {
  int64_t channel;
  int64_t place;

  __device__ __forceinline__ void next(const TileChannels& of) {
    if (++place < of.inner.d) return;
    place = 0;
    if (++channel == of.channels.d) channel = 0;
  }
};

__device__ __forceinline__ ChannelPlace place_of(const TileChannels& of, int64_t at) {
  return {at / of.inner.d % of.channels.d, at % of.inner.d};
}

// The same for entry i of a tile, given the place of the tile's first entry.
__device__ __forceinline__ ChannelPlace place_in_tile(const TileChannels& of,
                                                      const ChannelPlace& first, int i) {
  const int64_t runs = of.inner.quotient(first.place + i);
  const int64_t channel = first.channel + runs;
  return {channel - of.channels.d * of.channels.quotient(channel),
          first.place + i - of.inner.d * runs};
}

}  // namespace fastprune::cuda
