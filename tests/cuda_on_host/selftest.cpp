// Tests of the emulator itself, without torch:
//   g++ -std=c++17 -O1 -Wall -Wextra -fno-strict-aliasing [-fsanitize=address] selftest.cpp
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "cuda_on_host.h"

#define FP_SHARED(Type, name) auto& name = cuda_on_host::static_shared<Type>([] {}, #name)

namespace {

using cuda_on_host::Fault;
using cuda_on_host::run;

constexpr int kSeeds = 20;
constexpr unsigned kFull = 0xffffffffu;
int failures = 0;

void check(bool ok, const char* what, int line) {
  std::printf("%s  %s (line %d)\n", ok ? "ok  " : "FAIL", what, line);
  if (!ok) ++failures;
}
#define CHECK(condition, what) check((condition), what, __LINE__)

// The message of the Fault that body throws; empty if it throws none.
template <class Body>
std::string fault_of(Body body) {
  try {
    body();
  } catch (const Fault& fault) {
    return fault.what();
  }
  return "";
}

bool has(const std::string& text, const char* part) {
  return text.find(part) != text.npos;
}

template <class Holds>
bool for_all_seeds(Holds holds) {
  bool all = true;
  for (int seed = 0; seed < kSeeds; ++seed) {
    cuda_on_host::set_seed(seed);
    all = all && holds();
  }
  return all;
}

// ---- sums, scans, histograms ----

template <bool kBarriers>
__global__ void block_sum_kernel(const unsigned* in, unsigned* out) {
  FP_SHARED(unsigned[64], values);
  const unsigned i = threadIdx.x;
  values[i] = in[blockIdx.x * blockDim.x + i];
  if (kBarriers) __syncthreads();
  for (unsigned step = blockDim.x / 2; step > 0; step /= 2) {
    if (i < step) values[i] += values[i + step];
    if (kBarriers) __syncthreads();
  }
  if (i == 0) out[blockIdx.x] = values[0];
}

template <bool kBarriers>
bool block_sums_right() {
  std::vector<unsigned> in(4 * 64), out(4);
  std::iota(in.begin(), in.end(), 0);
  run("block_sum", &block_sum_kernel<kBarriers>, 4, 64, 0, in.data(), out.data());
  for (int b = 0; b < 4; ++b) {
    if (out[b] != std::accumulate(&in[b * 64], &in[b * 64] + 64, 0u)) return false;
  }
  return true;
}

__global__ void scan_kernel(const int* in, int* exclusive, int* inclusive, int* reduced,
                            int* pairs) {
  using Scan = cub::BlockScan<int, 96>;
  using Reduce = cub::BlockReduce<int, 96>;
  FP_SHARED(Scan::TempStorage, scan);
  FP_SHARED(Reduce::TempStorage, reduce);
  const unsigned i = threadIdx.x;
  int total;
  Scan(scan).ExclusiveSum(in[i], exclusive[i], total);
  __syncthreads();
  Scan(scan).InclusiveSum(in[i], inclusive[i]);
  __syncthreads();
  int two[2] = {in[i], 1};
  Scan(scan).ExclusiveSum(two, two);
  pairs[2 * i] = two[0];
  pairs[2 * i + 1] = two[1];
  const int largest = Reduce(reduce).Reduce(in[i], [](int a, int b) { return max(a, b); });
  __syncthreads();
  const int sum = Reduce(reduce).Sum(in[i]);
  if (i == 0) {
    reduced[0] = sum;
    reduced[1] = largest;
    reduced[2] = total;
  } else if (sum == reduced[3]) {
    reduced[4] = 1;  // not where the sum is returned
  }
}

bool scans_right() {
  constexpr int n = 96;
  std::vector<int> in(n), exclusive(n), inclusive(n), reduced(5, 0), pairs(2 * n);
  for (int i = 0; i < n; ++i) in[i] = i * 7 % 31;
  const int sum = std::accumulate(in.begin(), in.end(), 0);
  reduced[3] = sum;
  run("scan", &scan_kernel, 1, n, 0, in.data(), exclusive.data(), inclusive.data(), reduced.data(),
      pairs.data());
  bool ok = reduced[0] == sum && reduced[1] == 30 && reduced[2] == sum && reduced[4] == 0;
  for (int i = 0, before = 0; i < n; before += in[i++]) {
    ok = ok && exclusive[i] == before && inclusive[i] == before + in[i];
    ok = ok && pairs[2 * i] == before + i && pairs[2 * i + 1] == before + i + in[i];
  }
  return ok;
}

__global__ void reuse_storage_kernel(unsigned* out) {
  using Scan = cub::BlockScan<unsigned, 64>;
  FP_SHARED(Scan::TempStorage, storage);
  unsigned first, second;
  Scan(storage).ExclusiveSum(1, first);
  Scan(storage).ExclusiveSum(100, second);  // no barrier before it
  out[threadIdx.x] = first;
}

bool reuse_goes_wrong() {
  std::vector<unsigned> out(64);
  run("reuse_storage", &reuse_storage_kernel, 1, 64, 0, out.data());
  for (unsigned i = 0; i < 64; ++i) {
    if (out[i] != i) return true;
  }
  return false;
}

__global__ void warp_cub_kernel(int* sums, int* scans) {
  using Reduce = cub::WarpReduce<int>;
  using Scan = cub::WarpScan<int, 8>;
  FP_SHARED(Reduce::TempStorage[2], reduce);
  FP_SHARED(Scan::TempStorage[8], scan);
  const int i = static_cast<int>(threadIdx.x);
  const int sum = Reduce(reduce[i / 32]).Sum(i);
  if (i % 32 == 0) sums[i / 32] = sum;
  Scan(scan[i / 8]).InclusiveSum(i, scans[i]);
}

__global__ void histogram_kernel(const unsigned char* in, int n, unsigned* counts) {
  FP_SHARED(unsigned[16], local);
  if (threadIdx.x < 16) local[threadIdx.x] = 0;
  __syncthreads();
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < n;
       i += static_cast<int>(gridDim.x * blockDim.x)) {
    atomicAdd(&local[in[i] % 16], 1u);
  }
  __syncthreads();
  if (threadIdx.x < 16) atomicAdd(&counts[threadIdx.x], local[threadIdx.x]);
}

bool histogram_right() {
  std::vector<unsigned char> in(5000);
  std::vector<unsigned> counts(16, 0), expected(16, 0);
  for (size_t i = 0; i < in.size(); ++i) ++expected[(in[i] = i * i / 7) % 16];
  run("histogram", &histogram_kernel, 3, 128, 0, in.data(), 5000, counts.data());
  return counts == expected;
}

__global__ void last_block_kernel(const int* in, int* partial, unsigned* done, int* out) {
  FP_SHARED(bool, last);
  FP_SHARED(int, sum);
  if (threadIdx.x == 0) sum = 0;
  __syncthreads();
  atomicAdd(&sum, in[blockIdx.x * blockDim.x + threadIdx.x]);
  __syncthreads();
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = sum;
    __threadfence();
    last = atomicInc(done, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last) return;
  if (threadIdx.x == 0) {
    int total = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) total += partial[b];
    *out += total;
  }
}

bool last_block_right() {
  std::vector<int> in(10 * 48, 3), partial(10, -1000000);
  unsigned done = 0;
  int out = 0;
  for (int i = 0; i < 2; ++i) {  // the counter resets itself
    run("last_block", &last_block_kernel, 10, 48, 0, in.data(), partial.data(), &done, &out);
  }
  return out == 2 * 10 * 48 * 3 && done == 0;
}

// ---- warps ----

struct WarpResults {  // kernel parameter: pointers to one slot a thread
  unsigned *ballot, *match, *reduced;
  int *any, *all, *shuffled, *up, *down, *crossed, *narrow, *votes;
};

__global__ void warp_kernel(WarpResults r) {
  const unsigned i = threadIdx.y * blockDim.x + threadIdx.x;
  const int lane = static_cast<int>(i % warpSize);
  r.ballot[i] = __ballot_sync(kFull, lane % 3 == 0);
  r.match[i] = __match_any_sync(kFull, lane % 4);
  r.any[i] = __any_sync(kFull, lane == 2);
  r.all[i] = __all_sync(kFull, lane < 31);
  r.shuffled[i] = __shfl_sync(kFull, lane * 10, 5);
  r.up[i] = __shfl_up_sync(kFull, lane, 3);
  r.down[i] = __shfl_down_sync(kFull, lane, 1);
  r.crossed[i] = __shfl_xor_sync(kFull, lane, 1);
  r.narrow[i] = __shfl_sync(kFull, lane, 1, 8);
  r.reduced[i] =
      __reduce_add_sync(kFull, static_cast<unsigned>(lane)) + 1000 * __reduce_max_sync(kFull, 7u);
  __syncwarp();
  if (lane < 4) r.votes[i] = __popc(__ballot_sync(0xfu, 1));  // four lanes of the warp
  r.votes[i] += 100 * __syncthreads_count(i % 2 == 0) + 10000 * __syncthreads_or(i == 3) +
                20000 * __syncthreads_and(i != 3);
}

// 48 threads: one whole warp and half a warp.
bool warps_right() {
  constexpr unsigned n = 48;
  std::vector<std::vector<unsigned>> u(3, std::vector<unsigned>(n));
  std::vector<std::vector<int>> s(8, std::vector<int>(n));
  run("warp", &warp_kernel, 1, dim3(16, 3), 0,
      WarpResults{u[0].data(), u[1].data(), u[2].data(), s[0].data(), s[1].data(), s[2].data(),
                  s[3].data(), s[4].data(), s[5].data(), s[6].data(), s[7].data()});
  bool ok = true;
  for (unsigned i = 0; i < n; ++i) {
    const int lane = i % 32, lanes = i < 32 ? 32 : 16;
    const unsigned present = i < 32 ? kFull : 0xffffu;
    ok = ok && u[0][i] == (0x49249249u & present);
    ok = ok && u[1][i] == ((0x11111111u << lane % 4) & present);
    ok = ok && u[2][i] == static_cast<unsigned>(lanes * (lanes - 1) / 2 + 7000);
    ok = ok && s[0][i] == 1 && s[1][i] == (i >= 32) && s[2][i] == 50;
    ok = ok && s[3][i] == (lane < 3 ? lane : lane - 3);
    // The last lane of the half warp reads a missing lane: poison.
    ok = ok && (lane == 31 ? s[4][i] == 31 : (lane + 1 < lanes) == (s[4][i] == lane + 1));
    ok = ok && s[5][i] == (lane ^ 1) && s[6][i] == (lane / 8 * 8 + 1);
    ok = ok && s[7][i] == (lane < 4 ? 4 : 0) + 2400 + 10000;
  }
  return ok;
}

// ---- orders and poison ----

__global__ void order_kernel(unsigned* next, unsigned* order) {
  order[atomicAdd(next, 1u)] = blockIdx.x * blockDim.x + threadIdx.x;
}

std::vector<unsigned> order_of(uint64_t seed) {
  std::vector<unsigned> order(4 * 40);
  unsigned next = 0;
  cuda_on_host::set_seed(seed);
  run("order", &order_kernel, 4, 40, 0, &next, order.data());
  return order;
}

__global__ void poison_kernel(unsigned char* out, int bytes) {
  FP_SHARED(unsigned char[8], fixed);
  auto* dynamic = static_cast<unsigned char*>(cuda_on_host::dynamic_shared());
  unsigned char* mine = out + blockIdx.x * (8 + bytes);
  for (int i = 0; i < 8; ++i) mine[i] = fixed[i];
  for (int i = 0; i < bytes; ++i) mine[8 + i] = dynamic[i];
  for (int i = 0; i < 8; ++i) fixed[i] = 0;  // the next block sees poison again
  for (int i = 0; i < bytes; ++i) dynamic[i] = 0;
}

template <class T>
__device__ T* two_places(int which) {
  FP_SHARED(T, first);
  FP_SHARED(T, second);
  return which == 0 ? &first : &second;
}

__global__ void places_kernel(int* distinct) {
  std::set<const void*> places{two_places<int>(0), two_places<int>(1), two_places<float>(0),
                               two_places<float>(1), two_places<int>(0)};
  *distinct = static_cast<int>(places.size());
}

// ---- faults ----

__global__ void half_at_barrier_kernel() {
  if (threadIdx.x < 5) __syncthreads();
}
__global__ void two_barriers_kernel() {
  if (threadIdx.x < 5) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void kinds_of_barrier_kernel() {
  if (threadIdx.x < 5) {
    __syncthreads_or(1);
  } else {
    __syncthreads();
  }
}
__global__ void warp_against_block_kernel() {
  if (threadIdx.x < 5) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}
__global__ void warp_kinds_kernel() {
  if (threadIdx.x < 5) {
    __ballot_sync(kFull, 1);
  } else {
    __any_sync(kFull, 1);
  }
}
__global__ void exited_lanes_kernel() {
  if (threadIdx.x >= 5) return;
  __syncwarp();
}
__global__ void not_in_mask_kernel() {
  __ballot_sync(0x2u, 1);
}
__global__ void activemask_kernel() {
  __activemask();
}
__global__ void misaligned_load_kernel(const float* in, float* out) {
  *out = cuda_on_host::load(reinterpret_cast<const float4*>(in + threadIdx.x)).x;
}
__global__ void misaligned_store_kernel(float* out) {
  cuda_on_host::store(reinterpret_cast<float2*>(out + 1), make_float2(1, 2));
}
__global__ void big_static_kernel() {
  FP_SHARED(char[40000], a);
  FP_SHARED(char[10000], b);
  a[0] = b[0] = 0;
}
__global__ void wrong_cub_size_kernel() {
  using Reduce = cub::BlockReduce<int, 64>;
  FP_SHARED(Reduce::TempStorage, storage);
  Reduce(storage).Sum(1);
}
__global__ void throwing_kernel() {
  __syncthreads();
  if (threadIdx.x == 3) throw std::out_of_range("thrown by a kernel");
  __syncthreads();
}
__global__ void overrun_kernel() {
  FP_SHARED(int[4], small);
  volatile int* p = small;
  p[4] = 1;
}
__global__ void underrun_kernel() {
  FP_SHARED(double4[4], large);
  volatile double* p = &large[0].x;
  p[-1] = 1;
}
__global__ void narrow_underrun_kernel() {
  FP_SHARED(int[4], narrow);
  volatile int* p = narrow;
  p[-1] = 1;
}
#if CUDA_ON_HOST_ASAN
__global__ void stack_overrun_kernel() {
  int local[4] = {};
  volatile int* p = local;
  __syncthreads();
  p[4 + threadIdx.x / 64] = 1;
}
#endif
__global__ void nothing_kernel() {}
__global__ void nested_launch_kernel() {
  run("inner", &nothing_kernel, 1, 1, 0);
}

#if CUDA_ON_HOST_ASAN
// Whether body ends the process with AddressSanitizer's exit code. Its report is discarded.
template <class Body>
bool dies(Body body) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    if (std::freopen("/dev/null", "w", stderr) == nullptr) _exit(2);
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 1;
}
#endif

template <class Kernel>
std::string fault_with(Kernel kernel, unsigned threads = 32) {
  return fault_of([&] { run("faulty", kernel, 1, threads, 0); });
}

void test_faults() {
  CHECK(has(fault_with(&half_at_barrier_kernel), "divergent barrier"),
        "a barrier that some threads leave out is a fault");
  CHECK(has(fault_with(&two_barriers_kernel), "selftest.cpp:"),
        "two __syncthreads are not one barrier, and the fault says where they are");
  CHECK(has(fault_with(&kinds_of_barrier_kernel), "divergent barrier"),
        "two kinds of barrier are not one");
  CHECK(has(fault_with(&warp_against_block_kernel), "nobody can go on"),
        "__syncwarp against __syncthreads is a deadlock");
  CHECK(has(fault_with(&warp_kinds_kernel), "nobody can go on"),
        "two kinds of warp intrinsic do not meet");
  CHECK(for_all_seeds([] { return !fault_with(&exited_lanes_kernel).empty(); }),
        "a mask that names exited lanes is a fault");
  CHECK(has(fault_with(&not_in_mask_kernel), "does not name the calling lane"),
        "a mask without the caller is a fault");
  CHECK(has(fault_with(&activemask_kernel), "not emulated"), "__activemask is not emulated");
  CHECK(has(fault_with(&big_static_kernel), "too much shared memory"),
        "more than 48 KiB of static shared memory is a fault");
  CHECK(has(fault_with(&wrong_cub_size_kernel), "block of 32"),
        "a cub primitive of another block size is a fault");
#if CUDA_ON_HOST_ASAN
  CHECK(dies([] { fault_with(&overrun_kernel); }), "AddressSanitizer finds a shared overrun");
  CHECK(dies([] { fault_with(&underrun_kernel); }), "and an underrun");
  CHECK(dies([] { fault_with(&stack_overrun_kernel); }), "and one on a thread's stack");
#else
  CHECK(has(fault_with(&overrun_kernel), "'small'"), "a shared overrun is a fault");
  CHECK(has(fault_with(&underrun_kernel), "'large'"), "and so is an underrun");
#endif
  CHECK(has(fault_with(&narrow_underrun_kernel), "'narrow'"),
        "an underrun that AddressSanitizer cannot see is a fault");
  CHECK(has(fault_with(&nested_launch_kernel), "inside a kernel"),
        "a launch inside a kernel is a fault");

  alignas(16) float in[64] = {};
  float out[4];
  CHECK(has(fault_of([&] { run("load", &misaligned_load_kernel, 1, 32, 0, in, out); }),
            "misaligned load of 16 bytes"),
        "a misaligned load is a fault");
  CHECK(fault_of([&] { run("load", &misaligned_load_kernel, 1, 1, 0, in, out); }).empty(),
        "an aligned load is none");
  CHECK(has(fault_of([&] { run("store", &misaligned_store_kernel, 1, 1, 0, in); }),
            "misaligned store of 8 bytes"),
        "a misaligned store is a fault");

  CHECK(has(fault_of([] { run("k", &nothing_kernel, 0, 32, 0); }), "empty grid"),
        "an empty grid is a fault");
  CHECK(has(fault_with(&nothing_kernel, 1025), "1024"), "1025 threads are a fault");
  CHECK(fault_with(&nothing_kernel, 1024).empty(), "1024 threads are none");
  CHECK(has(fault_of([] { run("k", &nothing_kernel, 1, 1, 227 * 1024 + 1); }), "dynamic shared"),
        "more than 227 KiB of dynamic shared memory is a fault");
  CHECK(has(fault_of([] { __syncthreads(); }), "outside a kernel"),
        "a barrier outside a kernel is a fault");

  std::string thrown;
  try {
    run("throwing", &throwing_kernel, 1, 64, 0);
  } catch (const std::out_of_range& error) {
    thrown = error.what();
  }
  CHECK(thrown == "thrown by a kernel", "an exception in a kernel comes out of run()");
  CHECK(block_sums_right<true>(), "and the next launch is well");

  cuda_on_host::set_seed(77);
  const std::string message = fault_of(
      [&] { run("the_name", &misaligned_load_kernel, dim3(1, 1, 1), dim3(2, 1, 1), 0, in, out); });
  CHECK(has(message, "kernel 'the_name'") && has(message, "block (0,0,0)") &&
            has(message, "thread (1,0,0)") && has(message, "seed 77, launch 1"),
        "a fault names kernel, block, thread and seed");
  std::printf("      e.g. %s\n", message.c_str());
  std::printf("      e.g. %s\n", fault_with(&warp_against_block_kernel).c_str());
}

void test_orders() {
  CHECK(order_of(1) == order_of(1), "the same seed gives the same order");
  std::set<std::vector<unsigned>> orders;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) orders.insert(order_of(seed));
  CHECK(orders.size() == kSeeds, "different seeds give different orders");
  std::set<unsigned> first_blocks;
  for (const auto& order : orders) first_blocks.insert(order[0] / 40);
  CHECK(first_blocks.size() > 1, "blocks run in different orders too");

  bool poisoned = true;
  std::set<unsigned char> bytes;
  for_all_seeds([&] {
    std::vector<unsigned char> out(2 * (8 + 24));
    run("poison", &poison_kernel, 2, 1, 24, out.data(), 24);
    for (unsigned char byte : out) poisoned = poisoned && (byte & 0xA4) == 0xA4;
    bytes.insert(out.begin(), out.end());
    return true;
  });
  CHECK(poisoned, "uninitialised shared memory is poisoned before every block");
  CHECK(bytes.size() > 3, "with a byte that varies");
  int distinct = 0;
  run("places", &places_kernel, 1, 1, 0, &distinct);
  CHECK(distinct == 4, "each place and each template instantiation has its own variable");
}

void test_scalars() {
  CHECK(__popc(0xf0f0u) == 8 && __ffs(8) == 4 && __ffs(0) == 0 && __clz(0) == 32 &&
            __clz(1) == 31 && __clzll(0) == 64 && __ffsll(1ll << 40) == 41 &&
            __brev(1u) == 0x80000000u && __popcll(~0ull) == 64,
        "bit functions");
  CHECK(__float_as_uint(1.0f) == 0x3f800000u && __uint_as_float(0x40000000u) == 2.0f &&
            __double_as_longlong(__longlong_as_double(5)) == 5,
        "bit casts");
  CHECK(min(3u, 5u) == 3u && max(-1, 2) == 2 && min(NAN, 1.0f) == 1.0f && max(1.0, 2.0f) == 2.0,
        "min and max");
  unsigned u = 5;
  unsigned long long l = 1;
  float f = 1.5f;
  CHECK(atomicMax(&u, 9u) == 5 && atomicCAS(&u, 9u, 3u) == 9 && atomicExch(&u, 4u) == 3 &&
            atomicInc(&u, 4u) == 4 && u == 0 && atomicOr(&l, 6ull) == 1 && l == 7 &&
            atomicAnd(&l, 2ull) == 7 && l == 2 && atomicAdd(&f, 1.0f) == 1.5f && f == 2.5f &&
            atomicMin(&u, 0u) == 0 && atomicSub(&u, 1u) == 0 && u == kFull,
        "atomics give the old value and leave the new one");
  CHECK(alignof(float4) == 16 && alignof(uint2) == 8 && alignof(uchar4) == 4 &&
            alignof(ushort4) == 8 && sizeof(uint3) == 12,
        "vector types have CUDA's alignment");
}

__global__ void axpy_kernel(const float* x, float* y, int n) {
  FP_SHARED(float, scale);
  if (threadIdx.x == 0) scale = 2;
  __syncthreads();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) y[i] += scale * x[i];
}

__global__ void busy_kernel(const float* x, float* sums, int n) {
  using Scan = cub::BlockScan<int, 256>;
  FP_SHARED(Scan::TempStorage, storage);
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  float value = i < n ? x[i] : 0;
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kFull, value, step);
  int before;
  Scan(storage).ExclusiveSum(value > 0, before);
  if (threadIdx.x % 32 == 0) atomicAdd(sums, value);
}

template <class Launch>
double seconds(Launch launch) {
  launch();  // maps the stacks
  const auto start = std::chrono::steady_clock::now();
  launch();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void test_speed() {
  constexpr int n = 100000;
  std::vector<float> x(n, 1), y(n, 0);
  float sum = 0;
  const double light =
      seconds([&] { run("axpy", &axpy_kernel, (n + 255) / 256, 256, 0, x.data(), y.data(), n); });
  const double heavy =
      seconds([&] { run("busy", &busy_kernel, (n + 255) / 256, 256, 0, x.data(), &sum, n); });
  std::printf("      100000 threads: 1 barrier %.0f ms; 5 shuffles and a scan %.0f ms\n",
              light * 1e3, heavy * 1e3);
  CHECK(y[n - 1] == 4 && sum == 2 * n, "the timed kernels are right");
  const double limit = CUDA_ON_HOST_ASAN ? 10 : 1;
  CHECK(light < limit && heavy < limit, "and take less than a second (sanitized: 10)");
}

}  // namespace

int main() {
  test_scalars();
  CHECK(for_all_seeds(block_sums_right<true>), "block sum");
  CHECK(!for_all_seeds(block_sums_right<false>), "without its barriers it goes wrong on some seed");
  CHECK(for_all_seeds(scans_right), "BlockScan and BlockReduce");
  CHECK(!for_all_seeds([] { return !reuse_goes_wrong(); }),
        "TempStorage used again without a barrier goes wrong on some seed");
  std::vector<int> sums(2), scans(64);
  run("warp_cub", &warp_cub_kernel, 1, 64, 0, sums.data(), scans.data());
  CHECK(sums[0] == 496 && sums[1] == 1520 && scans[7] == 28 && scans[63] == 476,
        "WarpReduce and WarpScan");
  CHECK(for_all_seeds(histogram_right), "histogram with shared atomics");
  CHECK(for_all_seeds(last_block_right), "last block done");
  CHECK(for_all_seeds(warps_right), "ballots, match, shuffles, partial warps");
  test_orders();
  test_faults();
  test_speed();

  std::string names;
  size_t last_blocks = 0;
  for (const auto& [name, count] : cuda_on_host::launched()) {
    names += name + " ";
    if (name == "last_block") last_blocks = count;
  }
  CHECK(has(names, "axpy block_sum busy faulty histogram last_block load order places") &&
            !has(names, "throwing"),
        "the record lists the kernels that ran, sorted");
  CHECK(last_blocks == 2 * kSeeds, "and counts them");

  std::printf(failures == 0 ? "all well\n" : "%d FAILED\n", failures);
  return failures == 0 ? 0 : 1;
}
