/* What the parts of a training step share: rows of numbers of a kind, dropout, shapes of heads. */

#ifndef TRAINING_OPS_H
#define TRAINING_OPS_H

#include "simd.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#ifdef _OPENMP
#define TEXT(...) #__VA_ARGS__
#define PARALLEL(work)                                                   \
    _Pragma(TEXT(omp parallel for schedule(static) num_threads(threads) \
                 if (threads > 1 && (work) > ALONE)))
#else
#define PARALLEL(work)
#endif
enum { ALONE = 16384, SHARES = 32 }; /* numbers for which a second thread is not woken */

#define INLINE static inline __attribute__((always_inline))
#define KINDS(call)                  \
    if (kind == BFLOAT16) {          \
        enum { KIND = BFLOAT16 };    \
        call;                        \
    } else {                         \
        enum { KIND = FLOAT32 };     \
        call;                        \
    }

/* Numbers i ... i + LANES - 1 of `count`, 0 beyond its end. */
INLINE vec get(const void *p, int kind, int64_t i, int64_t count) {
    const int size = kind == FLOAT32 ? 4 : 2;
    const char *from = (const char *)p + i * size;
    if (count - i >= LANES) return widen(from, kind);
    char padded[4 * LANES] = {0};
    memcpy(padded, from, (count - i) * size);
    return widen(padded, kind);
}

INLINE shorts to_bfloat16(vec v) {
    shorts s;
#if defined(CONVERT) && defined(__AVX512BF16__)
    CONVERT("vcvtneps2bf16", s, v);
#else
    ints bits = (ints)v;
    s = __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, shorts);
#endif
    return s;
}

INLINE void put(void *p, int kind, int64_t i, int64_t count, vec v) {
    const int size = kind == FLOAT32 ? 4 : 2;
    const int64_t there = count - i < LANES ? count - i : LANES;
    char *to = (char *)p + i * size;
    if (kind == FLOAT32) {
        if (there == LANES) store((float *)to, v);
        else memcpy(to, &v, there * 4);
        return;
    }
    const shorts s = to_bfloat16(v);
    if (there == LANES) memcpy(to, &s, sizeof s);
    else memcpy(to, &s, there * 2);
}

/* Lane numbers from i on. */
INLINE ints counted(int i) {
    ints n;
    for (int lane = 0; lane < LANES; lane++) n[lane] = lane;
    return n + i;
}

INLINE float sum(vec v) { /* as a tree: a chain of additions would be waited for */
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float a[LANES];
    store(a, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) a[i] += a[i + half];
    return a[0];
#endif
}

INLINE float largest(vec v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float a[LANES];
    store(a, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) a[i] = a[i + half] > a[i] ? a[i + half] : a[i];
    return a[0];
#endif
}

INLINE const void *at(const void *p, int kind, int64_t i) {
    return (const char *)p + i * (kind == FLOAT32 ? 4 : 2);
}

/* ---- dropout -------------------------------------------------------------------------------- */

typedef struct { /* of 2^31 equally likely numbers, those below `below` drop; the rest by `scale` */
    int32_t below;
    uint32_t seed;
    float scale;
} Drop;

typedef uint32_t words __attribute__((vector_size(4 * LANES)));

/* The factors, 0 or scale, of numbers i ... i + LANES - 1: a hash of the number and the seed
   (Wellons' lowbias32), so that the backward pass finds them again. */
INLINE vec kept(const Drop *drop, int64_t i) {
    words x = (words)counted(0);
    x = (x + (uint32_t)i) * 0x9e3779b9u ^ (drop->seed + (uint32_t)(i >> 32));
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    x ^= x >> 16;
    const vec zero = {0};
    return choose((ints)(x >> 1) < drop->below, zero, zero + drop->scale);
}

typedef struct { /* each: heads of queries that share a head of keys and values */
    int32_t batch, length, heads, groups, width, normed;
    int64_t turned;         /* numbers of cos and sin from one row to the next, 0 if they share */
    const float *cos, *sin; /* (batch or 1, length, width), each pair's angle twice; or none */
    float eps;
} Heads;

/* train.c's */
void norm(int64_t, int, int, const float *, const float *, float, void *, float *, int);
void norm_rows_backward(int64_t, int, int, const float *, const float *, const float *,
                        const void *, const float *, float *, float *);
void split(const Heads *, int, const void *, void *, void *, void *, float *, int);
void split_backward(const Heads *, int, const void *, const float *, const void *, const void *,
                    const void *, void *, int);

#endif
