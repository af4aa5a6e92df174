// What code compiled with -fsanitize=thread calls, in the place of libtsan. Compiled without it.
#include <cstddef>
#include <cstdint>

#include "detector.h"

using cuda_on_host::race::detector;
using cuda_on_host::race::kAtomic;
using cuda_on_host::race::kRead;
using cuda_on_host::race::kWrite;
using cuda_on_host::race::Observer;
using cuda_on_host::race::running;
using cuda_on_host::race::Scope;

namespace {

inline void plain(void* p, size_t bytes, uint8_t kind, const void* pc) {
  Observer* thread = running;
  if (thread != nullptr) {
    detector.access(*thread, reinterpret_cast<uintptr_t>(p), bytes, kind, pc);
  }
}

// PTX: a volatile access orders memory as a relaxed one does.
inline void relaxed(void* p, size_t bytes, uint8_t kind, const void* pc) {
  Observer* thread = running;
  if (thread == nullptr) return;
  const auto address = reinterpret_cast<uintptr_t>(p);
  detector.access(*thread, address, bytes, kind | kAtomic, pc);
  detector.pass(*thread, address, Scope::kDevice, kind == kRead, kind == kWrite);
}

}  // namespace

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

#define CALLER __builtin_return_address(0)
#define ACCESSES(n)                                  \
  void __tsan_read##n(void* p) {                     \
    plain(p, n, kRead, CALLER);                      \
  }                                                  \
  void __tsan_write##n(void* p) {                    \
    plain(p, n, kWrite, CALLER);                     \
  }                                                  \
  void __tsan_unaligned_read##n(void* p) {           \
    plain(p, n, kRead, CALLER);                      \
  }                                                  \
  void __tsan_unaligned_write##n(void* p) {          \
    plain(p, n, kWrite, CALLER);                     \
  }                                                  \
  void __tsan_volatile_read##n(void* p) {            \
    relaxed(p, n, kRead, CALLER);                    \
  }                                                  \
  void __tsan_volatile_write##n(void* p) {           \
    relaxed(p, n, kWrite, CALLER);                   \
  }                                                  \
  void __tsan_unaligned_volatile_read##n(void* p) {  \
    relaxed(p, n, kRead, CALLER);                    \
  }                                                  \
  void __tsan_unaligned_volatile_write##n(void* p) { \
    relaxed(p, n, kWrite, CALLER);                   \
  }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
#undef ACCESSES

void __tsan_read_range(void* p, size_t bytes) {
  plain(p, bytes, kRead, CALLER);
}
void __tsan_write_range(void* p, size_t bytes) {
  plain(p, bytes, kWrite, CALLER);
}
#undef CALLER

// std::atomic, in host code and in the emulator.
#define ATOMICS(bits)                                                                              \
  uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t* p, int) {               \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                                \
  void __tsan_atomic##bits##_store(volatile uint##bits##_t* p, uint##bits##_t v, int) {            \
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                                      \
  }                                                                                                \
  UPDATE(bits, exchange, __atomic_exchange_n)                                                      \
  UPDATE(bits, fetch_add, __atomic_fetch_add)                                                      \
  UPDATE(bits, fetch_sub, __atomic_fetch_sub)                                                      \
  UPDATE(bits, fetch_and, __atomic_fetch_and)                                                      \
  UPDATE(bits, fetch_or, __atomic_fetch_or)                                                        \
  UPDATE(bits, fetch_xor, __atomic_fetch_xor)                                                      \
  int __tsan_atomic##bits##_compare_exchange_strong(                                               \
      volatile uint##bits##_t* p, uint##bits##_t* expected, uint##bits##_t v, int, int) {          \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }                                                                                                \
  int __tsan_atomic##bits##_compare_exchange_weak(                                                 \
      volatile uint##bits##_t* p, uint##bits##_t* expected, uint##bits##_t v, int, int) {          \
    return __atomic_compare_exchange_n(p, expected, v, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);  \
  }                                                                                                \
  uint##bits##_t __tsan_atomic##bits##_compare_exchange_val(                                       \
      volatile uint##bits##_t* p, uint##bits##_t expected, uint##bits##_t v, int, int) {           \
    __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);       \
    return expected;                                                                               \
  }
#define UPDATE(bits, name, builtin)                                                                \
  uint##bits##_t __tsan_atomic##bits##_##name(volatile uint##bits##_t* p, uint##bits##_t v, int) { \
    return builtin(p, v, __ATOMIC_SEQ_CST);                                                        \
  }
ATOMICS(8)
ATOMICS(16)
ATOMICS(32)
ATOMICS(64)
#undef UPDATE
#undef ATOMICS

void __tsan_atomic_thread_fence(int) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
void __tsan_atomic_signal_fence(int) {}

}  // extern "C"
