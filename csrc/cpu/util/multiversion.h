// Function multiversioning: one loop compiled for several instruction sets; the loader picks the
// version for the machine. The loops are plain enough for the compiler to vectorise; `flatten`
// inlines what they call, of which there would be the baseline version alone. FASTPRUNE_BASELINE,
// and compilers and machines without target_clones, leave the baseline version; setup.py and
// build_info() then say so, by FASTPRUNE_PLAIN_BECAUSE.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 && \
    !defined(__SANITIZE_ADDRESS__) && !defined(FASTPRUNE_BASELINE)
#define FASTPRUNE_HAS_MULTIVERSION
#define FASTPRUNE_MULTIVERSION \
  __attribute__((flatten, target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
// For loops bound by memory bandwidth: 64-byte vectors took 1.03 to 1.17 times as long as 32-byte
// ones on an AMD EPYC, at 1M to 4M float32 entries.
#define FASTPRUNE_MULTIVERSION_STREAM \
  __attribute__((flatten, target_clones("arch=x86-64-v3", "default")))
#define FASTPRUNE_PLAIN_BECAUSE ""
#else
#if !defined(__x86_64__)
#define FASTPRUNE_PLAIN_BECAUSE "there are versions for x86-64 alone"
#elif defined(__SANITIZE_ADDRESS__) || defined(FASTPRUNE_BASELINE)
#define FASTPRUNE_PLAIN_BECAUSE "FASTPRUNE_BASELINE or a sanitizer asks for it"
#else
#define FASTPRUNE_PLAIN_BECAUSE "only GCC 12 or newer compiles AVX2 and AVX-512 versions"
#endif
#define FASTPRUNE_MULTIVERSION
#define FASTPRUNE_MULTIVERSION_STREAM
#endif
