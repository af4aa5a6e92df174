// Loads, stores, fences and atomics. One thread runs at a time, so an atomic needs no lock. Another
// thread may take over at each of them; at load() and store() this happens less often.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "machine.h"

namespace cuda_on_host {

inline constexpr uint32_t kAtomicSwitchOneIn = 4;
inline constexpr uint32_t kAccessSwitchOneIn = 32;

template <class T>
void check_aligned(const T* p, const char* what) {
  if (reinterpret_cast<uintptr_t>(p) % alignof(T) == 0) return;
  char address[32];
  snprintf(address, sizeof address, "%p", static_cast<const void*>(p));
  fault(std::string("misaligned ") + what + " of " + std::to_string(sizeof(T)) + " bytes at " +
        address + ", which is not a multiple of " + std::to_string(alignof(T)));
}

// `*p` with the alignment checked and free of g++'s aliasing rules: p may be a reinterpret_cast of
// a pointer to smaller elements.
template <class V>
V load(const V* p) {
  static_assert(std::is_trivially_copyable_v<V>, "");
  check_aligned(p, "load");
  machine.maybe_switch(kAccessSwitchOneIn);
  V value;
  std::memcpy(static_cast<void*>(&value), static_cast<const void*>(p), sizeof(V));
  return value;
}

template <class V>
void store(V* p, const V& value) {
  static_assert(std::is_trivially_copyable_v<V>, "");
  check_aligned(p, "store");
  machine.maybe_switch(kAccessSwitchOneIn);
  std::memcpy(static_cast<void*>(p), static_cast<const void*>(&value), sizeof(V));
}

template <class T, class Update>
T atomic(T* p, Update update) {
  check_aligned(p, "atomic");
  machine.maybe_switch(kAtomicSwitchOneIn);
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
T __ldg(const T* p) {
  return cuda_on_host::load(p);
}
template <class T>
T __ldcs(const T* p) {
  return cuda_on_host::load(p);
}
template <class T>
T __ldcg(const T* p) {
  return cuda_on_host::load(p);
}
template <class T>
void __stcs(T* p, typename cuda_on_host::Same<T>::type value) {
  cuda_on_host::store(p, value);
}
template <class T>
void __stcg(T* p, typename cuda_on_host::Same<T>::type value) {
  cuda_on_host::store(p, value);
}

// Every write is visible at once, so a missing fence is not found.
inline void __threadfence_block() {}
inline void __threadfence() {}
inline void __threadfence_system() {}

// CUDA's overloads and no others: code that nvcc rejects does not compile here either.
#define CUDA_ON_HOST_ATOMIC(name, T, expression)                                           \
  inline T name(T* p, T value) {                                                           \
    return cuda_on_host::atomic(p, [value](T old) { return static_cast<T>(expression); }); \
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
#undef CUDA_ON_HOST_ATOMIC

#define CUDA_ON_HOST_CAS(T)                                                              \
  inline T atomicCAS(T* p, T compare, T value) {                                         \
    return cuda_on_host::atomic(p, [=](T old) { return old == compare ? value : old; }); \
  }
CUDA_ON_HOST_CAS(int)
CUDA_ON_HOST_CAS(unsigned)
CUDA_ON_HOST_CAS(unsigned long long)
#undef CUDA_ON_HOST_CAS
