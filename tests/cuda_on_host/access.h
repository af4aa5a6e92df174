// Loads, stores, fences and atomics. One thread runs at a time, so an atomic needs no lock. Another
// thread may take over at each of them; at load() and store() this happens less often. Always
// inlined: a race is reported at the line of the kernel.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "machine.h"
#include "race/hooks.h"

namespace cuda_on_host {

inline constexpr uint32_t kAtomicSwitchOneIn = 4;
inline constexpr uint32_t kAccessSwitchOneIn = 32;

[[noreturn]] inline void fault_misaligned(const void* p, const char* what, size_t bytes,
                                          size_t alignment) {
  char address[32];
  snprintf(address, sizeof address, "%p", p);
  fault(std::string("misaligned ") + what + " of " + std::to_string(bytes) + " bytes at " +
        address + ", which is not a multiple of " + std::to_string(alignment));
}

template <class T>
__forceinline__ void check_aligned(const T* p, const char* what) {
  if (reinterpret_cast<uintptr_t>(p) % alignof(T) == 0) return;
  fault_misaligned(p, what, sizeof(T), alignof(T));
}

// `*p` with the alignment checked and free of g++'s aliasing rules: p may be a reinterpret_cast of
// a pointer to smaller elements.
template <class V>
__forceinline__ V load(const V* p) {
  static_assert(std::is_trivially_copyable_v<V>, "");
  check_aligned(p, "load");
  machine.maybe_switch(kAccessSwitchOneIn);
  race::read(p, sizeof(V));
  race::Pause pause;
  V value;
  std::memcpy(static_cast<void*>(&value), static_cast<const void*>(p), sizeof(V));
  return value;
}

template <class V>
__forceinline__ void store(V* p, const V& value) {
  static_assert(std::is_trivially_copyable_v<V>, "");
  check_aligned(p, "store");
  machine.maybe_switch(kAccessSwitchOneIn);
  race::write(p, sizeof(V));
  race::Pause pause;
  std::memcpy(static_cast<void*>(p), static_cast<const void*>(&value), sizeof(V));
}

template <class T, class Update>
__forceinline__ T atomic(T* p, race::Scope scope, Update update) {
  check_aligned(p, "atomic");
  machine.maybe_switch(kAtomicSwitchOneIn);
  race::atomic(p, sizeof(T), scope);
  race::Pause pause;
  const T old = *p;
  *p = update(old);
  return old;
}

template <class T>
struct Same {  // excludes the second argument of store-like functions from deduction
  using type = T;
};

}  // namespace cuda_on_host

template <class T>
__forceinline__ T __ldg(const T* p) {
  return cuda_on_host::load(p);
}
template <class T>
__forceinline__ T __ldcs(const T* p) {
  return cuda_on_host::load(p);
}
template <class T>
__forceinline__ T __ldcg(const T* p) {
  return cuda_on_host::load(p);
}
template <class T>
__forceinline__ void __stcs(T* p, typename cuda_on_host::Same<T>::type value) {
  cuda_on_host::store(p, value);
}
template <class T>
__forceinline__ void __stcg(T* p, typename cuda_on_host::Same<T>::type value) {
  cuda_on_host::store(p, value);
}

// Every write is visible at once: what a fence is for, only the race detector sees.
inline void __threadfence_block(cuda_on_host::Site site = cuda_on_host::Site::here()) {
  cuda_on_host::race::fence(cuda_on_host::race::Scope::kBlock, site);
}
inline void __threadfence(cuda_on_host::Site site = cuda_on_host::Site::here()) {
  cuda_on_host::race::fence(cuda_on_host::race::Scope::kDevice, site);
}
inline void __threadfence_system(cuda_on_host::Site site = cuda_on_host::Site::here()) {
  __threadfence(site);
}

// CUDA's overloads and no others: code that nvcc rejects does not compile here either.
#define CUDA_ON_HOST_ATOMIC(name, T, expression)                    \
  CUDA_ON_HOST_SCOPED_ATOMIC(name, kDevice, T, expression)          \
  CUDA_ON_HOST_SCOPED_ATOMIC(name##_system, kDevice, T, expression) \
  CUDA_ON_HOST_SCOPED_ATOMIC(name##_block, kBlock, T, expression)
#define CUDA_ON_HOST_SCOPED_ATOMIC(name, scope, T, expression)                                 \
  __forceinline__ T name(T* p, T value) {                                                      \
    return cuda_on_host::atomic(                                                               \
        p, cuda_on_host::race::Scope::scope,                                                   \
        [value](T old) __attribute__((always_inline)) { return static_cast<T>(expression); }); \
  }

CUDA_ON_HOST_ATOMIC(atomicAdd, int, static_cast<unsigned>(old) + static_cast<unsigned>(value))
CUDA_ON_HOST_ATOMIC(atomicAdd, unsigned, old + value)
CUDA_ON_HOST_ATOMIC(atomicAdd, unsigned long long, old + value)
CUDA_ON_HOST_ATOMIC(atomicAdd, float, old + value)
CUDA_ON_HOST_ATOMIC(atomicAdd, double, old + value)
CUDA_ON_HOST_ATOMIC(atomicSub, int, static_cast<unsigned>(old) - static_cast<unsigned>(value))
CUDA_ON_HOST_ATOMIC(atomicSub, unsigned, old - value)
CUDA_ON_HOST_ATOMIC(atomicExch, int, ((void)old, value))
CUDA_ON_HOST_ATOMIC(atomicExch, unsigned, ((void)old, value))
CUDA_ON_HOST_ATOMIC(atomicExch, unsigned long long, ((void)old, value))
CUDA_ON_HOST_ATOMIC(atomicExch, float, ((void)old, value))
CUDA_ON_HOST_ATOMIC(atomicInc, unsigned, old >= value ? 0u : old + 1)
CUDA_ON_HOST_ATOMIC(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)
#define CUDA_ON_HOST_ATOMIC_MIN_MAX(T)                         \
  CUDA_ON_HOST_ATOMIC(atomicMin, T, value < old ? value : old) \
  CUDA_ON_HOST_ATOMIC(atomicMax, T, value > old ? value : old)
CUDA_ON_HOST_ATOMIC_MIN_MAX(int)
CUDA_ON_HOST_ATOMIC_MIN_MAX(unsigned)
CUDA_ON_HOST_ATOMIC_MIN_MAX(long long)
CUDA_ON_HOST_ATOMIC_MIN_MAX(unsigned long long)
#undef CUDA_ON_HOST_ATOMIC_MIN_MAX
#define CUDA_ON_HOST_ATOMIC_BITS(T)             \
  CUDA_ON_HOST_ATOMIC(atomicAnd, T, old& value) \
  CUDA_ON_HOST_ATOMIC(atomicOr, T, old | value) \
  CUDA_ON_HOST_ATOMIC(atomicXor, T, old ^ value)
CUDA_ON_HOST_ATOMIC_BITS(int)
CUDA_ON_HOST_ATOMIC_BITS(unsigned)
CUDA_ON_HOST_ATOMIC_BITS(unsigned long long)
#undef CUDA_ON_HOST_ATOMIC_BITS
#undef CUDA_ON_HOST_SCOPED_ATOMIC
#undef CUDA_ON_HOST_ATOMIC

#define CUDA_ON_HOST_CAS(T)                                                           \
  __forceinline__ T atomicCAS(T* p, T compare, T value) {                             \
    return cuda_on_host::atomic(p, cuda_on_host::race::Scope::kDevice,                \
                                [=](T old) { return old == compare ? value : old; }); \
  }
CUDA_ON_HOST_CAS(int)
CUDA_ON_HOST_CAS(unsigned)
CUDA_ON_HOST_CAS(unsigned long long)
#undef CUDA_ON_HOST_CAS
