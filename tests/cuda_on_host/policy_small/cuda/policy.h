// Stands in for csrc/cuda/policy.h in the tests: small blocks, tiles and grids, so that small
// inputs take the paths of large ones.
#pragma once

#include <cstdint>

namespace fastprune::cuda {

constexpr int kTile = 256;

struct ElementwisePolicy {
  static constexpr int kThreads = 64;
};

struct ChannelsPolicy {
  static constexpr int kThreads = 64;
  static constexpr int kBlocksPerMultiprocessor = 2;
  static constexpr int kDigitBits = 11;
  static constexpr int kNormLoads = 3;
  static constexpr int kNormFill = 16;
  static constexpr int kNormOwnersPercent = 150;
  static constexpr int kNormStaged = 16;
  static constexpr int kSelectByAll = 200;
  static constexpr int kSelectorsPerMultiprocessor = 2;
};

struct TopkPolicy {
  static constexpr int kThreads = 64;
  static constexpr int kBlocksPerMultiprocessor = 2;
  static constexpr int kSampleBlocksPerMultiprocessor = 2;
  static constexpr int kDigitBits = 11;
  static constexpr int kKeysInFlight = 8;
  static constexpr int64_t kSmall = 512;
  static constexpr int64_t kEach = 600;
  static constexpr int64_t kMedium = 3000;
  static constexpr int64_t kSampleShare = 16;
  static constexpr int64_t kSampleLeast = 64;
  static constexpr int64_t kSampleMost = 512;
  static constexpr double kSampleSigmas = 4.0;
  static constexpr double kCandidateRoom = 1.21;
  static constexpr int64_t kPartRoom = 1500;
  static constexpr int step_vecs(int entries) { return entries == 4 ? 2 : 3; }
  static constexpr int kRowKeyBytes = 32;
  static constexpr int kBatchTiles = 3;
  static constexpr int kStaged = 256;
};

struct NmPolicy {
  static constexpr int kThreads = 64;
  static constexpr int kBlocksPerMultiprocessor = 2;
};

struct BlocksPolicy {
  static constexpr int kThreads = 64;
  static constexpr int kBlocksPerMultiprocessor = 2;
  static constexpr int kStretch = 40;
};

}  // namespace fastprune::cuda
