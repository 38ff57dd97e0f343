// float16 for the library's kernels, which PoCL has not: Clang's own _Float16, stored and added as OpenCL's
// half. Mathematical functions go through float and are rounded. Only what those kernels use is here.
#pragma once

constexpr const char* float16_source = R"(
#ifdef ARM_COMPUTE_OPENCL_FP16_ENABLED
#define cl_khr_fp16
#define HALF_MAX ((half_)65504.0f)
typedef _Float16 half_;
#define SIZED(S) typedef half_ half_##S __attribute__((ext_vector_type(S)));
#define SIZES(EACH) EACH(2) EACH(3) EACH(4) EACH(8) EACH(16)
SIZES(SIZED)
#define OVER static inline __attribute__((overloadable))
#define TO(type, x) __builtin_convertvector(x, type)

// The library makes names of types by joining: half, 4, convert_, _sat.
#define convert_half_(x) ((half_)(x))
#define convert_half_2(x) TO(half_2, x)
#define convert_half_3(x) TO(half_3, x)
#define convert_half_4(x) TO(half_4, x)
#define convert_half_8(x) TO(half_8, x)
#define convert_half_16(x) TO(half_16, x)
#define half_1 half_
#define convert_half_1 convert_half_
#define convert_half__sat convert_half_
#define convert_half_1_sat convert_half_
#define convert_half_2_sat convert_half_2
#define convert_half_3_sat convert_half_3
#define convert_half_4_sat convert_half_4
#define convert_half_8_sat convert_half_8
#define convert_half_16_sat convert_half_16

OVER half_16 convert_half_16_rtz(half_16 x) { return x; }
OVER half_16 convert_half_16_rtz(float16 x) {
  const half_16 nearest = TO(half_16, x);
  const short16 away = TO(short16, fabs(TO(float16, nearest)) > fabs(x));  // -1 where it is
  return __builtin_astype(__builtin_astype(nearest, short16) + away, half_16);
}

#define CONVERT_FROM_HALF(type, S) \
  OVER type##S convert_##type##S(half_##S x) { return TO(type##S, x); }
#define SIZED_CONVERT(S) \
  CONVERT_FROM_HALF(float, S) CONVERT_FROM_HALF(int, S) CONVERT_FROM_HALF(short, S) CONVERT_FROM_HALF(ushort, S)
SIZES(SIZED_CONVERT)

#define SPACED_LOAD(S, space) \
  OVER half_##S vload##S(size_t i, const space half_* p) { \
    half_##S x; \
    for (int k = 0; k < S; ++k) x[k] = p[S * i + k]; \
    return x; \
  }
#define SPACED_STORE(S, space) \
  OVER void vstore##S(half_##S x, size_t i, space half_* p) { \
    for (int k = 0; k < S; ++k) p[S * i + k] = x[k]; \
  }
#define SIZED_LOAD(S) \
  SPACED_LOAD(S, __global) SPACED_LOAD(S, __local) SPACED_LOAD(S, __private) \
  SPACED_STORE(S, __global) SPACED_STORE(S, __local) SPACED_STORE(S, __private)
SIZES(SIZED_LOAD)

#define UNARY_SIZED(name, S) \
  OVER half_##S name(half_##S x) { return TO(half_##S, name(TO(float##S, x))); }
#define UNARY(name) \
  OVER half_ name(half_ x) { return (half_)name((float)x); } \
  UNARY_SIZED(name, 2) UNARY_SIZED(name, 3) UNARY_SIZED(name, 4) UNARY_SIZED(name, 8) UNARY_SIZED(name, 16)
UNARY(exp) UNARY(log) UNARY(sqrt) UNARY(rsqrt) UNARY(tanh) UNARY(sin) UNARY(fabs) UNARY(floor) UNARY(ceil) UNARY(round)

#define BINARY_SIZED(name, S) \
  OVER half_##S name(half_##S x, half_##S y) { return TO(half_##S, name(TO(float##S, x), TO(float##S, y))); }
#define BINARY(name) \
  OVER half_ name(half_ x, half_ y) { return (half_)name((float)x, (float)y); } \
  BINARY_SIZED(name, 2) BINARY_SIZED(name, 3) BINARY_SIZED(name, 4) BINARY_SIZED(name, 8) BINARY_SIZED(name, 16)
BINARY(pow)

#define EXTREME_SIZED(name, op, S) \
  OVER half_##S name(half_##S x, half_##S y) { return op(x, y); } \
  OVER half_##S name(half_##S x, half_ y) { return op(x, (half_##S)y); }
#define EXTREME(name, op) \
  OVER half_ name(half_ x, half_ y) { return op(x, y); } \
  EXTREME_SIZED(name, op, 2) EXTREME_SIZED(name, op, 3) EXTREME_SIZED(name, op, 4) EXTREME_SIZED(name, op, 8) \
  EXTREME_SIZED(name, op, 16)
EXTREME(max, __builtin_elementwise_max) EXTREME(fmax, __builtin_elementwise_max)
EXTREME(min, __builtin_elementwise_min) EXTREME(fmin, __builtin_elementwise_min)

#define FUSED_SIZED(name, S) \
  OVER half_##S name(half_##S x, half_##S y, half_##S z) { \
    return TO(half_##S, fma(TO(float##S, x), TO(float##S, y), TO(float##S, z))); \
  }
#define FUSED(name) \
  OVER half_ name(half_ x, half_ y, half_ z) { return (half_)fma((float)x, (float)y, (float)z); } \
  FUSED_SIZED(name, 2) FUSED_SIZED(name, 3) FUSED_SIZED(name, 4) FUSED_SIZED(name, 8) FUSED_SIZED(name, 16)
FUSED(fma) FUSED(mad)

#define SIZED_OTHERS(S) \
  OVER half_##S clamp(half_##S x, half_##S low, half_##S high) { return min(max(x, low), high); } \
  OVER half_##S clamp(half_##S x, half_ low, half_ high) { return min(max(x, low), high); } \
  OVER half_ dot(half_##S x, half_##S y) { \
    float sum = 0; \
    for (int k = 0; k < S; ++k) sum += (float)x[k] * (float)y[k]; \
    return (half_)sum; \
  } \
  OVER half_##S select(half_##S no, half_##S yes, short##S which) { return which < (short##S)0 ? yes : no; } \
  OVER short##S isgreaterequal(half_##S x, half_##S y) { return x >= y; } \
  OVER short##S isgreater(half_##S x, half_##S y) { return x > y; } \
  OVER short##S isless(half_##S x, half_##S y) { return x < y; }
SIZES(SIZED_OTHERS)
OVER half_ clamp(half_ x, half_ low, half_ high) { return min(max(x, low), high); }
OVER half_ select(half_ no, half_ yes, short which) { return which ? yes : no; }

#define half half_
#define half2 half_2
#define half3 half_3
#define half4 half_4
#define half8 half_8
#define half16 half_16
#define convert_half8 convert_half_8
#define convert_half4 convert_half_4
#else  // kernels of files that hold float16 ones as well
#define half float
#define half2 float2
#define half4 float4
#define half8 float8
#define half16 float16
#endif
)";
