/* Vectors of the widest kind that the processor has, of numbers in float32, bfloat16, float16 or
   int8. */

#ifndef SIMD_H
#define SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 4 };
#elif defined(__AVX__) /* 16 registers only */
enum { LANES = 8, VECTORS = 2 };
#else
enum { LANES = 4, VECTORS = 4 };
#endif
enum { PANEL = VECTORS * LANES, PAIR = 2 * LANES, MOST = 6 }; /* MOST tokens of a tile */

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t shorts __attribute__((vector_size(2 * LANES)));
typedef int8_t bytes __attribute__((vector_size(LANES)));

enum { FLOAT32, BFLOAT16, FLOAT16, INT8 };

static inline vec load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void store(float *p, vec v) { memcpy(p, &v, sizeof v); }

static inline vec choose(ints yes, vec a, vec b) {
    return (vec)((yes & (ints)a) | (~yes & (ints)b));
}

/* exp to 2 units in the last place: 2^n times a polynomial on +-ln(2)/2 (Cephes, expf). */
static inline vec exponential(vec x) {
    vec zero = {0}, low = zero - 87.0f, high = zero + 88.0f;
    x = choose(x < low, low, choose(x > high, high, x));
    vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* to the nearest whole number */
    vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vec p = zero + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r) * r + r + 1.0f;
    ints power = (__builtin_convertvector(n, ints) + 127) << 23;
    return p * (vec)power;
}

static inline vec sigmoid(vec x) { return 1.0f / (1.0f + exponential(-x)); }

/* LANES weights, in float32. What compilers make of such conversions is slow on x86. */
#if defined(__AVX2__) && defined(__F16C__)
#define CONVERT(instruction, to, from) __asm__(instruction " %1, %0" : "=v"(to) : "vm"(from))
#endif

static inline vec widen(const char *p, int kind) {
    if (kind == FLOAT32) return load((const float *)p);
    bytes b;
    shorts s;
    ints wide;
    if (kind == INT8) {
        memcpy(&b, p, sizeof b);
#ifdef CONVERT
        CONVERT("vpmovsxbd", wide, b);
#else
        wide = __builtin_convertvector(b, ints);
#endif
        return __builtin_convertvector(wide, vec);
    }
    memcpy(&s, p, sizeof s);
#ifdef CONVERT
    if (kind == FLOAT16) {
        vec v;
        CONVERT("vcvtph2ps", v, s);
        return v;
    }
    CONVERT("vpmovzxwd", wide, s);
#else
    wide = __builtin_convertvector(s, ints);
    if (kind == FLOAT16) { /* 5 bits of exponent, not 8 */
        vec size = (vec)((wide & 0x7fff) << 13) * 0x1p112f;
        return (vec)((ints)size | (wide & 0x8000) << 16);
    }
#endif
    return (vec)(wide << 16);
}

#endif
