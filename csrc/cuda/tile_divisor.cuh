// Which channel an entry of a tile belongs to, without dividing for each entry.
#pragma once

#include <cstdint>

#include "device.cuh"

namespace fastprune::cuda {

// Quotients of numbers below d + kTile. Of a d of kTile or more they are 0 or 1; of a smaller one
// the product with 2^32 / d, rounded up, is exact: n < 2^16, and d times its error below 2^32.
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

// Of a tensor seen as [outer, channels, inner].
struct TileChannels {
  TileDivisor channels;
  TileDivisor inner;
};

class ChannelsOfTile {
 public:
  // `at` is the first entry of the tile.
  __device__ __forceinline__ ChannelsOfTile(const TileChannels& of, int64_t at)
      : of_(of), place_(at % of.inner.d), channel_(at / of.inner.d % of.channels.d) {}

  // The channel of the tile's entry i.
  __device__ __forceinline__ int64_t operator()(int i) const {
    const int64_t c = channel_ + of_.inner.quotient(place_ + i);
    return c - of_.channels.d * of_.channels.quotient(c);
  }

 private:
  const TileChannels& of_;
  int64_t place_;
  int64_t channel_;
};

}  // namespace fastprune::cuda
