/* What training_ops.c and amx_block.c share: loads and stores of arrays of float32 or bfloat16,
   reductions of a vector, dropout, and the shapes of attention heads. */

#ifndef TRAINING_OPS_H
#define TRAINING_OPS_H

#include "simd.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

/* Makes the `for` loop that follows it parallel, over `threads` threads (a variable in scope), if
   the loop handles more than MAX_SERIAL_ELEMENTS elements. With fewer, waking a second thread does
   not pay. */
#ifdef _OPENMP
#define STRINGIFY(...) #__VA_ARGS__
#define PARALLEL_FOR(elements)                                                \
    _Pragma(STRINGIFY(omp parallel for schedule(static) num_threads(threads) \
                      if (threads > 1 && (elements) > MAX_SERIAL_ELEMENTS)))
#else
#define PARALLEL_FOR(elements)
#endif
/* REDUCTION_PARTS: partial sums of a reduction over rows. It is a constant, so that the order of
   additions does not depend on the number of threads. */
enum { MAX_SERIAL_ELEMENTS = 16384, REDUCTION_PARTS = 32 };

/* Compiles `call` once for each element type. `call` uses the constant DTYPE, which equals the
   variable `dtype` in scope. */
#define DISPATCH_DTYPE(call)          \
    if (dtype == BFLOAT16) {          \
        enum { DTYPE = BFLOAT16 };    \
        call;                         \
    } else {                          \
        enum { DTYPE = FLOAT32 };     \
        call;                         \
    }

/* ---- arrays of float32 or bfloat16 ----------------------------------------------------------- */

/* Elements i ... i + LANES - 1 of an array of `count`, 0 beyond its end. */
ALWAYS_INLINE vec_f32 load_elements(const void *array, int dtype, int64_t i, int64_t count) {
    const int element_bytes = dtype == FLOAT32 ? 4 : 2;
    const char *from = (const char *)array + i * element_bytes;
    if (count - i >= LANES) return load_as_float32(from, dtype);
    char padded[4 * LANES] = {0};
    memcpy(padded, from, (count - i) * element_bytes);
    return load_as_float32(padded, dtype);
}

/* Writes elements i ... i + LANES - 1 of an array of `count`, none beyond its end. */
ALWAYS_INLINE void store_elements(void *array, int dtype, int64_t i, int64_t count, vec_f32 v) {
    const int element_bytes = dtype == FLOAT32 ? 4 : 2;
    const int64_t stored = count - i < LANES ? count - i : LANES;
    char *to = (char *)array + i * element_bytes;
    if (dtype == FLOAT32) {
        if (stored == LANES) store_vector((float *)to, v);
        else memcpy(to, &v, stored * 4);
        return;
    }
    const vec_u16 rounded = to_bfloat16(v);
    if (stored == LANES) memcpy(to, &rounded, sizeof rounded);
    else memcpy(to, &rounded, stored * 2);
}

/* i, i + 1, ... i + LANES - 1. */
ALWAYS_INLINE vec_i32 consecutive_from(int i) {
    vec_i32 index;
    for (int lane = 0; lane < LANES; lane++) index[lane] = lane;
    return index + i;
}

/* The sum of all lanes, added as a tree: in a chain each addition would wait for the last. */
ALWAYS_INLINE float sum_lanes(vec_f32 v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float lanes[LANES];
    store_vector(lanes, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
#endif
}

ALWAYS_INLINE float max_of_lanes(vec_f32 v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float lanes[LANES];
    store_vector(lanes, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            lanes[i] = lanes[i + half] > lanes[i] ? lanes[i + half] : lanes[i];
    return lanes[0];
#endif
}

/* The address of element i. Callers that write cast const away. */
ALWAYS_INLINE const void *element_address(const void *array, int dtype, int64_t i) {
    return (const char *)array + i * (dtype == FLOAT32 ? 4 : 2);
}

/* ---- dropout -------------------------------------------------------------------------------- */

/* cpu_kernels.Drop. Each element gets a random number in 0 ... 2^31 - 1. If that number is
   below drop_threshold, the element is dropped; if not, it is multiplied by keep_scale. With a
   threshold of 0 nothing is dropped. */
typedef struct {
    int32_t drop_threshold;
    uint32_t seed;
    float keep_scale;
    int64_t first; /* the index of element 0 in the batch of all processes */
} Dropout;

typedef uint32_t vec_u32 __attribute__((vector_size(4 * LANES)));

/* The factors, 0 or keep_scale, of elements i ... i + LANES - 1. The random number is a hash of the
   element's index and the seed, so that the backward pass computes the same factors again. The hash
   is Wellons' lowbias32, of the index times 2^32 / golden ratio, xor the seed. */
ALWAYS_INLINE vec_f32 dropout_factors(const Dropout *dropout, int64_t i) {
    i += dropout->first;
    vec_u32 hash = (vec_u32)consecutive_from(0);
    hash = (hash + (uint32_t)i) * 0x9e3779b9u ^ (dropout->seed + (uint32_t)(i >> 32));
    hash = (hash ^ hash >> 16) * 0x7feb352du;
    hash = (hash ^ hash >> 15) * 0x846ca68bu;
    hash ^= hash >> 16;
    const vec_f32 zero = {0};
    return select_lanes((vec_i32)(hash >> 1) < dropout->drop_threshold, zero,
                        zero + dropout->keep_scale);
}

/* ---- attention heads ------------------------------------------------------------------------ */

/* cpu_kernels.Heads: sizes of queries, keys and values, and what is done to queries and keys.

   Each key-value head serves query_heads / kv_heads consecutive query heads. cos and sin are
   (batch or 1, length, head_width), or null where nothing is rotated. They are the half-split
   layout of rotary_angles in core/model/layers.py: cos holds each angle's cosine in both halves of
   the head, sin holds -sine in the first half and sine in the second. */
typedef struct {
    int32_t batch, length, query_heads, kv_heads, head_width, qk_norm;
    int64_t rotary_batch_stride; /* elements of cos, sin from a sequence to the next; 0: shared */
    const float *cos, *sin;
    float eps; /* of qk_norm, and in amx_block.c of the block's norms */
} Heads;

/* Functions of training_ops.c that amx_block.c calls for a chunk of a batch. */
void norm(int64_t, int, int, const float *, const float *, float, void *, float *, int);
void norm_rows_backward(int64_t, int, int, const float *, const float *, const float *,
                        const void *, const float *, float *, float *);
void split(const Heads *, int, const void *, void *, void *, void *, float *, int);
void split_backward(const Heads *, int, const void *, const float *, const void *, const void *,
                    const void *, void *, int);

#endif
