/* Portable SIMD vectors (GCC vector extensions) as wide as the processor's registers, and loads of
   float32, bfloat16, float16 and int8 numbers into them. Arithmetic is in float32.

   Included by decode_step.c and, through training_ops.h, by training_ops.c and amx_block.c. */

#ifndef SIMD_H
#define SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* LANES: float32 numbers in a vector. VECTORS_PER_PANEL: vectors of outputs that decode_step.c
   accumulates side by side. Accumulators and weights of a tile, (MAX_TILE_TOKENS + 1) *
   VECTORS_PER_PANEL vectors, are to stay in registers. */
#if defined(__AVX512F__) /* 32 registers */
enum { LANES = 16, VECTORS_PER_PANEL = 4 };
#elif defined(__AVX__) /* 16 registers */
enum { LANES = 8, VECTORS_PER_PANEL = 2 };
#else /* 32 registers on ARM; SSE has 16 and spills */
enum { LANES = 4, VECTORS_PER_PANEL = 4 };
#endif
enum { MAX_TILE_TOKENS = 6 };

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* LANES elements each. */
typedef float vec_f32 __attribute__((vector_size(4 * LANES)));
typedef int32_t vec_i32 __attribute__((vector_size(4 * LANES)));
typedef uint16_t vec_u16 __attribute__((vector_size(2 * LANES)));
typedef int8_t vec_i8 __attribute__((vector_size(LANES)));

/* Element types, numbered as DTYPES of core/decode/quantized_linear.py and KINDS of
   core/ops/cpu_kernels.py number them. */
enum { FLOAT32, BFLOAT16, FLOAT16, INT8 };

static inline vec_f32 load_vector(const float *p) {
    vec_f32 v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void store_vector(float *p, vec_f32 v) { memcpy(p, &v, sizeof v); }

/* In each lane a where mask is -1, b where it is 0. */
static inline vec_f32 select_lanes(vec_i32 mask, vec_f32 a, vec_f32 b) {
    return (vec_f32)((mask & (vec_i32)a) | (~mask & (vec_i32)b));
}

/* exp(x) to 2 units in the last place, for x clamped to -87 ... 88. Cephes' expf: x = n ln(2) + r
   with |r| <= ln(2) / 2, and exp(x) = 2^n times a polynomial in r. */
static inline vec_f32 exp_vector(vec_f32 x) {
    vec_f32 zero = {0}, low = zero - 87.0f, high = zero + 88.0f;
    x = select_lanes(x < low, low, select_lanes(x > high, high, x));
    /* x / ln(2), rounded: adding 1.5 * 2^23 leaves no bits for a fraction. */
    vec_f32 n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    /* ln(2) in two parts, the first short enough for n times it to be exact. */
    vec_f32 r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vec_f32 p = zero + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r) * r + r + 1.0f;
    vec_i32 power_of_two = (__builtin_convertvector(n, vec_i32) + 127) << 23; /* bits of 2^n */
    return p * (vec_f32)power_of_two;
}

static inline vec_f32 sigmoid_vector(vec_f32 x) { return 1.0f / (1.0f + exp_vector(-x)); }

/* One x86 instruction that converts a whole vector: compilers turn __builtin_convertvector between
   these widths into slow code. */
#if defined(__AVX2__) && defined(__F16C__)
#define CONVERT(instruction, to, from) __asm__(instruction " %1, %0" : "=v"(to) : "vm"(from))
#endif

/* LANES consecutive elements of type dtype, as float32. */
static inline vec_f32 load_as_float32(const char *p, int dtype) {
    if (dtype == FLOAT32) return load_vector((const float *)p);
    vec_i8 narrow8;
    vec_u16 narrow16;
    vec_i32 wide;
    if (dtype == INT8) {
        memcpy(&narrow8, p, sizeof narrow8);
#ifdef CONVERT
        CONVERT("vpmovsxbd", wide, narrow8);
#else
        wide = __builtin_convertvector(narrow8, vec_i32);
#endif
        return __builtin_convertvector(wide, vec_f32);
    }
    memcpy(&narrow16, p, sizeof narrow16);
#ifdef CONVERT
    if (dtype == FLOAT16) {
        vec_f32 v;
        CONVERT("vcvtph2ps", v, narrow16);
        return v;
    }
    CONVERT("vpmovzxwd", wide, narrow16);
#else
    wide = __builtin_convertvector(narrow16, vec_i32);
    if (dtype == FLOAT16) {
        /* float16 has 5 exponent bits with bias 15, float32 8 with bias 127: the fields are moved
           into place, then 2^(127 - 15) corrects the bias, of subnormal numbers too. */
        vec_f32 magnitude = (vec_f32)((wide & 0x7fff) << 13) * 0x1p112f;
        return (vec_f32)((vec_i32)magnitude | (wide & 0x8000) << 16);
    }
#endif
    return (vec_f32)(wide << 16); /* bfloat16 is the upper half of a float32 */
}

/* Rounds to the nearest, ties to even. */
ALWAYS_INLINE vec_u16 to_bfloat16(vec_f32 v) {
    vec_u16 rounded;
#if defined(CONVERT) && defined(__AVX512BF16__)
    CONVERT("vcvtneps2bf16", rounded, v);
#else
    vec_i32 bits = (vec_i32)v;
    rounded = __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, vec_u16);
#endif
    return rounded;
}

#endif
