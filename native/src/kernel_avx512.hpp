// What the AVX-512 kernels share. Functions are compiled for AVX-512 one by one and called where the CPU has
// it.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#define PIQI_AVX512 __attribute__((target("avx512f")))

#include <immintrin.h>

#include <algorithm>
#include <cstddef>

namespace piqi {

constexpr size_t lanes = 16;  // floats in a vector
constexpr __mmask16 all_lanes = 0xFFFF;

inline bool has_avx512() {
  return __builtin_cpu_supports("avx512f");
}

/// The first `count` lanes, 16 at most.
inline __mmask16 first_lanes(size_t count) {
  return static_cast<__mmask16>((1u << std::min(count, lanes)) - 1);
}

/// Where part `i` of `parts` nearly equal ones of [0, size) begins: no part is a poor remainder.
inline size_t part_begin(size_t size, size_t parts, size_t i) {
  return size * i / parts;
}

inline size_t part_count(size_t size, size_t most) {
  return (size + most - 1) / most;
}

/// A NaN takes the lower bound, as in XNNPACK: max returns its second argument when either is NaN.
PIQI_AVX512 inline __m512 clamp(__m512 value, __m512 lowest, __m512 highest) {
  // The forms with a mask, because GCC 12 takes the others' unused operand for an uninitialised one (a
  // warning).
  return _mm512_maskz_min_ps(all_lanes, _mm512_maskz_max_ps(all_lanes, value, lowest), highest);
}

}  // namespace piqi
#endif
