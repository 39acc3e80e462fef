/* A whole block of the default wiring, forward and backward, in bfloat16 on a processor with tiles
   (AMX): pre-RMSNorm, attention, pre-RMSNorm, squared ReLU. What Block.forward of model.py works out,
   by train.c's functions and products of its own: a call for each operation of a small model takes
   longer than the operation.

   A thread takes a few sequences at a time, forward or back through all of the block, so that what
   lies between is still in its cache. Gradients of few weights it sums on its way, those of many are
   summed behind it, by all threads. A product's second operand is packed as the tiles take it: (columns / 16, inputs / 2, 16) pairs of
   numbers of neighbouring inputs. Widths are multiples of SIDE; what is summed over tokens is padded
   with zeros, and of products only rows that there are are kept, though more may be read. Results are the same to the last bit for the same number of threads. */

#include "training_ops.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#include <immintrin.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
static int omp_get_num_threads(void) { return 1; }
#endif

enum { SIDE = 32, TOKENS = 256 }; /* TOKENS, about, that a thread takes at a time */
enum { FEW = 1 << 18 };           /* weights of a block whose gradients each thread sums by itself */
typedef uint16_t half;

/* Whether the system lets this process use tiles: asked for once (arch_prctl, XTILEDATA). */
int tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    return !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA);
}

/* Eight tiles of 16 rows of 64 bytes. */
static const uint8_t SHAPES[64] __attribute__((aligned(64))) = {
    [0] = 1, [16] = 64, [18] = 64, [20] = 64, [22] = 64, [24] = 64, [26] = 64, [28] = 64, [30] = 64,
    [48] = 16, [49] = 16, [50] = 16, [51] = 16, [52] = 16, [53] = 16, [54] = 16, [55] = 16};

static void begin_tiles(void) { _tile_loadconfig(SHAPES); }

/* ---- memory to work in ----------------------------------------------------------------------- */

static int64_t align(int64_t bytes) { return (bytes + 63) / 64 * 64; }

static half *take(char **spare, int64_t halves_) {
    half *p = (half *)*spare;
    *spare += align(2 * halves_);
    return p;
}

/* ---- packing -------------------------------------------------------------------------------- */

static inline void transpose16(const uint32_t *in, int64_t from, uint32_t *out, int64_t to) {
    __m512i r[16], t[16];
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(in + i * from);
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
    for (int i = 0; i < 16; i++) _mm512_storeu_si512(out + i * to, r[i]);
}

static inline __m256i halves(const float *p) {
    return (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(p));
}

static inline __m512i pairs(__m256i even, __m256i odd) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(even),
                           _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

static inline __m256i sixteen(const half *p) { return _mm256_loadu_si256((const void *)p); }

static int up_to_side(int n) { return (n + SIDE - 1) / SIDE * SIDE; }

static const half NOTHING[16] = {0};

/* Sixteen numbers of a row, 0 where there is no such row. */
static inline const half *row_of(const half *x, int64_t next, int row, int rows) {
    return row < rows ? x + row * next : NOTHING;
}

/* Columns n ... n + 15 of x (rows, columns), whose rows lie `next` apart. */
static inline void pack_rows(int rows, const half *x, int64_t next, int n, uint32_t *out) {
    const int inputs = up_to_side(rows);
    out += (int64_t)n * (inputs / 2), x += n;
    for (int p = 0; p < inputs; p += 2)
        _mm512_storeu_si512(out + 8 * p, pairs(sixteen(row_of(x, next, p, rows)),
                                               sixteen(row_of(x, next, p + 1, rows))));
}

/* The same of the transpose of x: its rows n ... n + 15. */
static inline void pack_columns(int inputs, const half *x, int64_t next, int n, uint32_t *out) {
    for (int p = 0; p < inputs / 2; p += 16)
        transpose16((const uint32_t *)(x + n * next) + p, next / 2,
                    out + (int64_t)n * (inputs / 2) + 16 * p, 16);
}

/* Both of a weight (outputs, inputs) in float32: packed for y = x w', and for g w. */
static void pack_weight(int outputs, int inputs, const float *w, uint32_t *out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (outputs * inputs > ALONE)
    for (int n = 0; n < outputs; n += 16)
        for (int i = 0; i < inputs; i += 32) {
            half rows[16 * 32];
            for (int r = 0; r < 16; r++) {
                const float *from = w + (int64_t)(n + r) * inputs + i;
                _mm256_storeu_si256((void *)(rows + 32 * r), halves(from));
                _mm256_storeu_si256((void *)(rows + 32 * r + 16), halves(from + 16));
            }
            transpose16((uint32_t *)rows, 16, out + (int64_t)n * (inputs / 2) + 8 * i, 16);
        }
}

static void pack_weight_back(int outputs, int inputs, const float *w, uint32_t *out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (outputs * inputs > ALONE)
    for (int n = 0; n < inputs; n += 16)
        for (int p = 0; p < outputs / 2; p++) {
            const float *from = w + (int64_t)2 * p * inputs + n;
            _mm512_storeu_si512(out + (int64_t)n * (outputs / 2) + 16 * p,
                                pairs(halves(from), halves(from + inputs)));
        }
}

/* Rows m ... m + 15 of the transpose of x (rows, columns). */
static inline void transposed(int rows, const half *x, int64_t next, int m, half *out, int64_t to) {
    x += m;
    for (int k = 0; k < rows; k += 32) {
        uint32_t block[256];
        for (int p = k; p < k + 32; p += 2)
            _mm512_storeu_si512(block + 8 * (p - k), pairs(sixteen(row_of(x, next, p, rows)),
                                                           sixteen(row_of(x, next, p + 1, rows))));
        transpose16(block, 16, (uint32_t *)(out + k), to / 2);
    }
}

/* ---- products ------------------------------------------------------------------------------- */

/* SIDE x SIDE of a product: a (SIDE, inputs), rows `next` apart, with two panels of b. */
static inline __attribute__((always_inline)) void multiply(
    int inputs, const half *a, int64_t next, const uint32_t *b0, const uint32_t *b1) {
    const half *below = a + 16 * next;
    for (int k = 0; k < inputs; k += 32) {
        _tile_loadd(4, a + k, 2 * next);
        _tile_loadd(6, b0 + 8 * k, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b1 + 8 * k, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, below + k, 2 * next);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

static inline void zeros(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

static inline void keep(float *c, int64_t next) {
    _tile_stored(0, c, 4 * next);
    _tile_stored(1, c + 16, 4 * next);
    _tile_stored(2, c + 16 * next, 4 * next);
    _tile_stored(3, c + 16 * next + 16, 4 * next);
}

static inline void again(const float *c, int64_t next) {
    _tile_loadd(0, c, 4 * next);
    _tile_loadd(1, c + 16, 4 * next);
    _tile_loadd(2, c + 16 * next, 4 * next);
    _tile_loadd(3, c + 16 * next + 16, 4 * next);
}

static inline __attribute__((always_inline)) void product(int inputs, const half *a, int64_t next, const uint32_t *b, int n,
                           float *c, int64_t to) {
    const uint32_t *panel = b + (int64_t)n * (inputs / 2);
    zeros();
    multiply(inputs, a, next, panel, panel + 8 * (int64_t)inputs);
    keep(c, to);
}

static inline void put16(half *to, vec v) {
    _mm256_storeu_si256((void *)to, (__m256i)_mm512_cvtneps_pbh((__m512)v));
}

static inline vec get16(const half *from) { return widen((const char *)from, BFLOAT16); }

typedef struct { /* what becomes of a product */
    enum { HALF, ADDED, SQUARED, SLOPED } kind;
    half *out;           /* HALF, SQUARED, SLOPED */
    half *square;        /* SQUARED: squared ReLU of `out` */
    const half *up;      /* SLOPED: times the derivative of that here */
    const float *stream; /* ADDED to */
    float *sum;
    const Drop *drop;
    int64_t from; /* ADDED: the first one's number among all, for `drop` */
} Then;

static inline __attribute__((always_inline)) void then(const Then *t, int64_t i, vec v) {
    const vec zero = {0};
    if (t->kind == ADDED) {
        if (t->drop->below) v *= kept(t->drop, t->from + i);
        store(t->sum + i, load(t->stream + i) + v);
        return;
    }
    if (t->kind == SLOPED) {
        const vec up = get16(t->up + i);
        v *= 2.0f * choose(up > zero, up, up * zero); /* what is not a number stays so */
    }
    put16(t->out + i, v);
    if (t->kind == SQUARED) {
        const vec up = get16(t->out + i), positive = choose(up > zero, up, up * zero);
        put16(t->square + i, positive * positive);
    }
}

/* a (rows, inputs) times b packed (inputs, columns). */
static inline __attribute__((always_inline)) void linear(
    int rows, int columns, int inputs, const half *a, const uint32_t *b, const Then *t) {
    float c[SIDE * SIDE] __attribute__((aligned(64)));
    for (int m = 0; m < rows; m += SIDE)
        for (int n = 0; n < columns; n += SIDE) {
            product(inputs, a + (int64_t)m * inputs, inputs, b, n, c, SIDE);
            for (int r = 0; r < SIDE && m + r < rows; r++)
                for (int i = 0; i < SIDE; i += 16)
                    then(t, (int64_t)(m + r) * columns + n + i, load(c + SIDE * r + i));
        }
}

/* The squared ReLU of sixteen. */
static inline __m256i squares(const half *p) {
    const __m512 v = _mm512_max_ps((__m512)get16(p), _mm512_setzero_ps());
    return (__m256i)_mm512_cvtneps_pbh(v * v);
}

static inline void pack_squares(int rows, const half *x, int64_t next, int n, uint32_t *out) {
    const int inputs = up_to_side(rows);
    out += (int64_t)n * (inputs / 2), x += n;
    for (int p = 0; p < inputs; p += 2)
        _mm512_storeu_si512(out + 8 * p, pairs(squares(row_of(x, next, p, rows)),
                                               squares(row_of(x, next, p + 1, rows))));
}

/* Sums of a weight's gradient, out (outputs, inputs) += g' x, of a chunk's g (size, outputs) and x
   (size, inputs), or x's squared ReLU: in three steps, each for a share of the work. `fresh`: out is what they come to. */
typedef struct {
    int size, padded, outputs, inputs, squared, fresh;
    const half *g, *x;
    half *turned;     /* (outputs, padded) */
    uint32_t *packed; /* as inputs x padded */
    float *out;
} Sums;

static void turn_g(const Sums *s, int m) {
    transposed(s->size, s->g, s->outputs, m, s->turned + (int64_t)m * s->padded, s->padded);
}

static void pack_x(const Sums *s, int n) {
    if (s->squared) pack_squares(s->size, s->x, s->inputs, n, s->packed);
    else pack_rows(s->size, s->x, s->inputs, n, s->packed);
}

static void sum_rows(const Sums *s, int m) { /* SIDE of the outputs */
    for (int n = 0; n < s->inputs; n += SIDE) {
        float *c = s->out + (int64_t)m * s->inputs + n;
        const uint32_t *panel = s->packed + (int64_t)n * (s->padded / 2);
        if (s->fresh) zeros();
        else again(c, s->inputs);
        multiply(s->padded, s->turned + (int64_t)m * s->padded, s->padded, panel,
                 panel + 8 * (int64_t)s->padded);
        keep(c, s->inputs);
    }
}

/* By all threads, over all rows. spare: TOKENS * (outputs + inputs) halves. */
static void weight_gradient(int rows, int outputs, int inputs, const half *g, const half *x,
                            int squared, float *out, half *spare, int threads) {
#pragma omp parallel num_threads(threads)
    {
        begin_tiles();
        for (int from = 0; from < rows; from += TOKENS) {
            const int size = rows - from < TOKENS ? rows - from : TOKENS;
            const Sums s = {size, up_to_side(size), outputs, inputs, squared, !from, g + (int64_t)from * outputs,
                            x + (int64_t)from * inputs, spare,
                            (uint32_t *)(spare + (int64_t)TOKENS * outputs), out};
#pragma omp for schedule(static) nowait
            for (int m = 0; m < outputs; m += 16) turn_g(&s, m);
#pragma omp for schedule(static)
            for (int n = 0; n < inputs; n += 16) pack_x(&s, n);
#pragma omp for schedule(static)
            for (int m = 0; m < outputs; m += SIDE) sum_rows(&s, m);
        }
        _tile_release();
    }
}

/* By one thread, of a chunk. */
static void chunk_gradient(int size, int outputs, int inputs, const half *g, const half *x,
                           int squared, int fresh, float *out, char *spare) {
    const int padded = up_to_side(size);
    half *turned = take(&spare, (int64_t)padded * outputs);
    const Sums s = {size, padded, outputs, inputs, squared, fresh, g, x, turned,
                    (uint32_t *)take(&spare, (int64_t)padded * inputs), out};
    for (int m = 0; m < outputs; m += 16) turn_g(&s, m);
    for (int n = 0; n < inputs; n += 16) pack_x(&s, n);
    for (int m = 0; m < outputs; m += SIDE) sum_rows(&s, m);
}

/* ---- attention ------------------------------------------------------------------------------ */

/* Rows of a head, `next` apart, padded with zeros to `padded`. */
static void copied(int length, int padded, int width, const half *from, int64_t next, half *to) {
    for (int t = 0; t < length; t++) memcpy(to + t * width, from + t * next, 2 * width);
    memset(to + length * width, 0, 2 * (int64_t)(padded - length) * width);
}

/* exp of what is not above 0, within 1e-4: 2^n times a polynomial. No less than 2^-120: numbers that
   are not normal take a hundred times as long. */
static inline vec shrunk(vec x) {
    const __m512 t = _mm512_max_ps(_mm512_set1_ps(-120.0f), (__m512)(x * 1.44269504f));
    const __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const vec f = (vec)(t - n), zero = {0};
    vec p = zero + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    return (vec)_mm512_scalef_ps((__m512)p, n);
}

/* Rows t ... t + SIDE - 1 of the scores, in place: to exponentials of `factor` times each over what
   its position sees, 0 elsewhere; shares: what makes probabilities of them. */
static void exponentials(const Heads *h, int padded, int64_t sequence, int t, const int32_t *first,
                         float *scores, float factor, float *shares) {
    const vec zero = {0}, nothing = zero - INFINITY;
    for (int r = 0; r < SIDE; r++) {
        float *row = scores + (int64_t)r * padded;
        const int begin = first && t + r < h->length ? first[sequence * h->length + t + r] : 0;
        const int end = t + r + 1, all = t + SIDE;
        vec most = nothing, total = zero;
        for (int i = 0; i < all; i += 16) {
            vec s = load(row + i) * factor;
            if (i < begin || i + 16 > end) {
                const ints n = counted(i);
                s = choose((n >= begin) & (n < end), s, nothing);
            }
            most = (vec)_mm512_max_ps((__m512)most, (__m512)s);
            store(row + i, s);
        }
        const float top = largest(most);
        for (int i = 0; i < all; i += 16) {
            vec e = shrunk(load(row + i) - top);
            if (i < begin || i + 16 > end) {
                const ints n = counted(i);
                e = choose((n >= begin) & (n < end), e, zero);
            }
            total += e;
            store(row + i, e);
        }
        shares[r] = 1 / sum(total);
    }
}

int64_t attention_spare(int length, int width) {
    const int64_t padded = up_to_side(length);
    return 9 * align(2 * padded * width) + 2 * align(4 * padded * width) +
           2 * align(4 * SIDE * padded) + 4 * align(2 * padded * padded);
}

/* out (B, T, heads * width) of q (B, heads, T, width), k, v (B, groups, T, width), of sequences
   whose first one's number is `before`. */
static void attend(const Heads *h, int64_t before, const half *q, const half *k, const half *v,
                   const int32_t *first, const Drop *drop, half *out, char *own) {
    const int width = h->width, length = h->length, each = h->heads / h->groups;
    const int padded = up_to_side(length), stream = h->heads * width;
    const float factor = 1 / sqrtf(width);
    half *rows = take(&own, padded * width), *kp = take(&own, padded * width);
    half *vp = take(&own, padded * width), *p = take(&own, SIDE * padded);
    float *s = (float *)take(&own, 2 * SIDE * padded), c[SIDE * SIDE], shares[SIDE];
    for (int64_t job = 0; job < (int64_t)h->batch * h->groups; job++) {
        const int64_t b = job / h->groups, g = job % h->groups;
        copied(length, padded, width, k + job * length * width, width, rows);
        for (int n = 0; n < padded; n += 16) pack_columns(width, rows, width, n, (uint32_t *)kp);
        copied(length, padded, width, v + job * length * width, width, rows);
        for (int n = 0; n < width; n += 16) pack_rows(padded, rows, width, n, (uint32_t *)vp);
        for (int head = g * each; head < (g + 1) * each; head++) {
            const int64_t number = b * h->heads + head, drawn = (before + b) * h->heads + head;
            copied(length, padded, width, q + number * length * width, width, rows);
            for (int t = 0; t < padded; t += SIDE) {
                for (int n = 0; n <= t; n += SIDE)
                    product(width, rows + t * width, width, (uint32_t *)kp, n, s + n, padded);
                exponentials(h, padded, b, t, first, s, factor, shares);
                for (int r = 0; r < SIDE; r++)
                    for (int i = 0; i < t + SIDE; i += 16) {
                        vec e = load(s + r * padded + i) * shares[r];
                        if (drop->below)
                            e *= kept(drop, (drawn * length + t + r) * length + i);
                        put16(p + r * padded + i, e);
                    }
                for (int n = 0; n < width; n += SIDE) {
                    const uint32_t *panel = (uint32_t *)vp + (int64_t)n * (padded / 2);
                    zeros();
                    multiply(t + SIDE, p, padded, panel, panel + 8 * (int64_t)padded);
                    keep(c, SIDE);
                    for (int r = 0; r < SIDE && t + r < length; r++)
                        for (int i = 0; i < SIDE; i += 16)
                            put16(out + (b * length + t + r) * stream + head * width + n + i,
                                  load(c + SIDE * r + i));
                }
            }
        }
    }
}

static void rounded(int64_t count, const float *from, half *to) {
    for (int64_t i = 0; i < count; i += 16) put16(to + i, load(from + i));
}

/* Gradients of q, k and v from that of what attend gave, g (B, T, heads * width). */
static void attend_backward(const Heads *h, int64_t before, const half *q, const half *k, const half *v,
                            const int32_t *first, const Drop *drop, const half *gradient,
                            half *to_q, half *to_k, half *to_v, char *own) {
    const int width = h->width, length = h->length, each = h->heads / h->groups;
    const int padded = up_to_side(length), stream = h->heads * width;
    const float factor = 1 / sqrtf(width);
    half *rows = take(&own, padded * width), *given = take(&own, padded * width);
    half *kc = take(&own, padded * width), *vc = take(&own, padded * width);
    half *kr = take(&own, padded * width), *qr = take(&own, padded * width);
    half *gr = take(&own, padded * width);
    float *sum_k = (float *)take(&own, 2 * padded * width);
    float *sum_v = (float *)take(&own, 2 * padded * width);
    float *s = (float *)take(&own, 2 * SIDE * padded);
    float *d = (float *)take(&own, 2 * SIDE * padded);
    half *p = take(&own, (int64_t)padded * padded), *ds = take(&own, (int64_t)padded * padded);
    half *pt = take(&own, (int64_t)padded * padded), *dst = take(&own, (int64_t)padded * padded);
    float c[SIDE * SIDE], shares[SIDE];
    for (int64_t job = 0; job < (int64_t)h->batch * h->groups; job++) {
        const int64_t b = job / h->groups, g = job % h->groups;
        copied(length, padded, width, k + job * length * width, width, rows);
        for (int n = 0; n < padded; n += 16) pack_columns(width, rows, width, n, (uint32_t *)kc);
        for (int n = 0; n < width; n += 16) pack_rows(padded, rows, width, n, (uint32_t *)kr);
        copied(length, padded, width, v + job * length * width, width, rows);
        for (int n = 0; n < padded; n += 16) pack_columns(width, rows, width, n, (uint32_t *)vc);
        for (int head = g * each; head < (g + 1) * each; head++) {
            const int64_t number = b * h->heads + head, drawn = (before + b) * h->heads + head;
            copied(length, padded, width, q + number * length * width, width, rows);
            copied(length, padded, width, gradient + b * length * stream + head * width, stream,
                   given);
            for (int n = 0; n < width; n += 16) {
                pack_rows(padded, rows, width, n, (uint32_t *)qr);
                pack_rows(padded, given, width, n, (uint32_t *)gr);
            }
            for (int t = 0; t < padded; t += SIDE) {
                half *mine = p + (int64_t)t * padded, *slope = ds + (int64_t)t * padded;
                for (int n = 0; n <= t; n += SIDE) {
                    product(width, rows + t * width, width, (uint32_t *)kc, n, s + n, padded);
                    product(width, given + t * width, width, (uint32_t *)vc, n, d + n, padded);
                }
                exponentials(h, padded, b, t, first, s, factor, shares);
                for (int r = 0; r < SIDE; r++) {
                    const int64_t from = (drawn * length + t + r) * length;
                    const float *e = s + r * padded;
                    float *along = d + r * padded;
                    vec total = {0};
                    for (int i = 0; i < t + SIDE; i += 16) {
                        const vec share = load(e + i) * shares[r];
                        vec left = share, change = load(along + i);
                        if (drop->below) {
                            const vec factors = kept(drop, from + i);
                            left *= factors, change *= factors;
                        }
                        put16(mine + r * padded + i, left);
                        store(along + i, change);
                        total += change * share;
                    }
                    const float mean = sum(total);
                    for (int i = 0; i < t + SIDE; i += 16)
                        put16(slope + r * padded + i,
                              (load(along + i) - mean) * load(e + i) * (factor * shares[r]));
                }
                for (int n = 0; n < width; n += SIDE) {
                    const uint32_t *panel = (uint32_t *)kr + (int64_t)n * (padded / 2);
                    zeros();
                    multiply(t + SIDE, slope, padded, panel, panel + 8 * (int64_t)padded);
                    keep(c, SIDE);
                    for (int r = 0; r < SIDE && t + r < length; r++)
                        for (int i = 0; i < SIDE; i += 16)
                            put16(to_q + (number * length + t + r) * width + n + i,
                                  load(c + SIDE * r + i));
                }
            }
            for (int t = 0; t < padded; t += SIDE) { /* by what sees it: positions from t on */
                const int64_t skip = (int64_t)t * padded;
                const int after = padded - t;
                for (int m = t; m < t + SIDE; m += 16) {
                    transposed(after, p + skip, padded, m, pt + (int64_t)(m - t) * padded,
                               padded);
                    transposed(after, ds + skip, padded, m, dst + (int64_t)(m - t) * padded,
                               padded);
                }
                for (int n = 0; n < width; n += SIDE) {
                    const int64_t panel = (int64_t)n * (padded / 2) + 8 * t;
                    const int64_t next = panel + 8 * (int64_t)padded;
                    float *to = sum_k + (int64_t)t * width + n;
                    if (head == g * each) zeros();
                    else again(to, width);
                    multiply(after, dst, padded, (uint32_t *)qr + panel, (uint32_t *)qr + next);
                    keep(to, width);
                    to = sum_v + (int64_t)t * width + n;
                    if (head == g * each) zeros();
                    else again(to, width);
                    multiply(after, pt, padded, (uint32_t *)gr + panel, (uint32_t *)gr + next);
                    keep(to, width);
                }
            }
        }
        rounded((int64_t)length * width, sum_k, to_k + job * length * width);
        rounded((int64_t)length * width, sum_v, to_v + job * length * width);
    }
}

/* ---- the block ------------------------------------------------------------------------------ */

typedef struct {
    int32_t hidden, padding;
    const float *norm1, *qkv, *out, *norm2, *up, *down; /* weights */
    const int32_t *first;
    Drop mixing, mixed, fed; /* of attention's shares; of what the mixer, the feed-forward adds */
    /* kept for the backward pass: */
    half *normed1, *projected, *mix, *normed2, *above;
    float *scales1, *scales_qk, *between, *scales2;
    char *spare;
} Block;

typedef struct { /* gradients, of the weights and the stream; norms' in parts (chunks, D) */
    float *norm1, *qkv, *out, *norm2, *up, *down, *x;
} Gradients;

typedef struct { /* packed weights, and sizes */
    const uint32_t *qkv, *out, *up, *down;
    int d, wide, f, kv;
} Packed;

static int stream_width(const Heads *h) { return h->heads * h->width; }
static int qkv_width(const Heads *h) { return (h->heads + 2 * h->groups) * h->width; }

/* Sequences of a chunk: about TOKENS tokens, as many chunks for each thread. */
static int chunk(const Heads *h, int threads) {
    const int sequences = (h->batch + threads - 1) / threads;
    const int chunks = (sequences * h->length + TOKENS - 1) / TOKENS;
    return (sequences + chunks - 1) / chunks;
}

int block_chunks(const Heads *h, int threads) {
    const int size = chunk(h, threads);
    return (h->batch + size - 1) / size;
}

static int64_t weights(const Heads *h, int hidden) {
    const int64_t d = stream_width(h);
    return d * (qkv_width(h) + d + 2 * (int64_t)hidden);
}

/* Bytes that a thread needs: of a chunk what is not kept, and sums of few weights. */
static int64_t chunk_spare(const Heads *h, int hidden, int threads) {
    const int64_t n = up_to_side(chunk(h, threads) * h->length), d = stream_width(h);
    const int64_t q = qkv_width(h), few = weights(h, hidden) <= FEW ? weights(h, hidden) : 0;
    const int64_t widest = hidden > q ? hidden : q, summing = 2 * n * (widest + d);
    const int64_t attending = attention_spare(h->length, h->width);
    return 2 * n * (6 * d + 3 * q + hidden) + 4 * n * d + 4 * few +
           (summing > attending ? summing : attending) + 2 * SIDE * widest + 4096;
}

/* Bytes that a call needs beside what it keeps. */
int64_t block_spare(const Heads *h, int hidden, int threads) {
    const int64_t n = (int64_t)h->batch * h->length, d = stream_width(h), q = qkv_width(h);
    const int64_t widest = hidden > q ? hidden : q;
    return 2 * weights(h, hidden) + 2 * n * (2 * d + q + hidden) + 2 * TOKENS * (widest + d) +
           threads * align(chunk_spare(h, hidden, threads)) + 2 * SIDE * widest + 4096;
}

static Packed packed(const Heads *h, const Block *b, int back, char **spare, int threads) {
    const int d = stream_width(h), wide = qkv_width(h), f = b->hidden;
    uint32_t *at_qkv = (uint32_t *)take(spare, (int64_t)d * wide);
    uint32_t *at_out = (uint32_t *)take(spare, (int64_t)d * d);
    uint32_t *at_up = (uint32_t *)take(spare, (int64_t)d * f);
    uint32_t *at_down = (uint32_t *)take(spare, (int64_t)d * f);
    void (*pack)(int, int, const float *, uint32_t *, int) = back ? pack_weight_back : pack_weight;
    pack(wide, d, b->qkv, at_qkv, threads);
    pack(d, d, b->out, at_out, threads);
    pack(f, d, b->up, at_up, threads);
    pack(d, f, b->down, at_down, threads);
    return (Packed){at_qkv, at_out, at_up, at_down, d, wide, f, h->groups * h->width};
}

/* Heads of `count` sequences from the one numbered `from`. */
static Heads some(const Heads *h, int from, int count) {
    Heads part = *h;
    part.batch = count;
    if (h->cos) part.cos += from * h->turned, part.sin += from * h->turned;
    return part;
}

static void forward(const Heads *h, const Block *b, const Packed *w, int from, int count,
                    const float *x, float *out, char *spare) {
    const Heads part = some(h, from, count);
    const int n = count * h->length, d = w->d, wide = w->wide, f = w->f;
    const int64_t o = (int64_t)from * h->length, each = h->heads + h->groups;
    half *q = take(&spare, (int64_t)n * d), *k = take(&spare, (int64_t)n * w->kv);
    half *v = take(&spare, (int64_t)n * w->kv), *squared = take(&spare, (int64_t)n * f);
    half *normed1 = b->normed1 + o * d, *normed2 = b->normed2 + o * d, *mix = b->mix + o * d;
    half *projected = b->projected + o * wide;
    float *between = b->between + o * d;

    norm(n, d, BFLOAT16, x + o * d, b->norm1, h->eps, normed1, b->scales1 + o, 1);
    linear(n, wide, d, normed1, w->qkv, &(Then){.kind = HALF, .out = projected});
    split(&part, BFLOAT16, projected, q, k, v, b->scales_qk + o * each, 1);
    attend(&part, from, q, k, v, b->first ? b->first + o : 0, &b->mixing, mix, spare);
    linear(n, d, d, mix, w->out,
           &(Then){.kind = ADDED, .stream = x + o * d, .sum = between, .drop = &b->mixed,
                   .from = o * d});
    norm(n, d, BFLOAT16, between, b->norm2, h->eps, normed2, b->scales2 + o, 1);
    linear(n, f, d, normed2, w->up,
           &(Then){.kind = SQUARED, .out = b->above + o * f, .square = squared});
    linear(n, d, f, squared, w->down,
           &(Then){.kind = ADDED, .stream = between, .sum = out + o * d, .drop = &b->fed,
                   .from = o * d});
}

/* out (B, T, D) of the stream x. */
void block(const Heads *h, const Block *b, const float *x, float *out, int threads) {
    char *spare = b->spare;
    const Packed w = packed(h, b, 0, &spare, threads);
    const int size = chunk(h, threads);
#pragma omp parallel num_threads(threads)
    {
        begin_tiles();
        char *own = spare + omp_get_thread_num() * align(chunk_spare(h, b->hidden, threads));
#pragma omp for schedule(static)
        for (int from = 0; from < h->batch; from += size)
            forward(h, b, &w, from, h->batch - from < size ? h->batch - from : size, x, out, own);
        _tile_release();
    }
}

typedef struct { /* gradients that the weights' are made of, of all tokens; or none of many */
    half *fed, *above, *mixed, *projected;
} Changes;

/* to = what is left of the numbers from the one numbered `first` on. */
static void left(int64_t count, int64_t first, const float *from, const Drop *drop, half *to) {
    for (int64_t i = 0; i < count; i += 16) {
        vec v = load(from + i);
        if (drop->below) v *= kept(drop, first + i);
        put16(to + i, v);
    }
}

/* sums: where gradients go; of the weights only where there are no `all`. */
static void backward(const Heads *h, const Block *b, const Packed *w, const Changes *all, int from,
                     int count, const float *x, const float *gradient, const Gradients *sums,
                     int fresh, char *spare) {
    const Heads part = some(h, from, count);
    const int n = count * h->length, d = w->d, wide = w->wide, f = w->f;
    const int64_t o = (int64_t)from * h->length, each = h->heads + h->groups;
    half *fed = all ? all->fed + o * d : take(&spare, (int64_t)n * d);
    half *above = all ? all->above + o * f : take(&spare, (int64_t)n * f);
    half *mixed = all ? all->mixed + o * d : take(&spare, (int64_t)n * d);
    half *projected = all ? all->projected + o * wide : take(&spare, (int64_t)n * wide);
    half *mine = take(&spare, (int64_t)n * d);
    float *between = (float *)take(&spare, 2 * (int64_t)n * d);
    half *q = take(&spare, (int64_t)n * d), *k = take(&spare, (int64_t)n * w->kv);
    half *v = take(&spare, (int64_t)n * w->kv), *to_q = take(&spare, (int64_t)n * d);
    half *to_k = take(&spare, (int64_t)n * w->kv), *to_v = take(&spare, (int64_t)n * w->kv);

    left((int64_t)n * d, o * d, gradient + o * d, &b->fed, fed);
    linear(n, f, d, fed, w->down, &(Then){.kind = SLOPED, .out = above, .up = b->above + o * f});
    if (!all) {
        chunk_gradient(n, d, f, fed, b->above + o * f, 1, fresh, sums->down, spare);
        chunk_gradient(n, f, d, above, b->normed2 + o * d, 0, fresh, sums->up, spare);
    }
    linear(n, d, f, above, w->up, &(Then){.kind = HALF, .out = mine});
    memset(sums->norm2, 0, d * sizeof(float));
    norm_rows_backward(n, d, BFLOAT16, b->between + o * d, b->norm2, b->scales2 + o, mine,
                       gradient + o * d, between, sums->norm2);
    left((int64_t)n * d, o * d, between, &b->mixed, mixed);
    if (!all) chunk_gradient(n, d, d, mixed, b->mix + o * d, 0, fresh, sums->out, spare);
    linear(n, d, d, mixed, w->out, &(Then){.kind = HALF, .out = mine});
    split(&part, BFLOAT16, b->projected + o * wide, q, k, v, b->scales_qk + o * each, 1);
    attend_backward(&part, from, q, k, v, b->first ? b->first + o : 0, &b->mixing, mine, to_q, to_k,
                    to_v, spare);
    split_backward(&part, BFLOAT16, b->projected + o * wide, b->scales_qk + o * each, to_q, to_k,
                   to_v, projected, 1);
    if (!all)
        chunk_gradient(n, wide, d, projected, b->normed1 + o * d, 0, fresh, sums->qkv, spare);
    linear(n, d, wide, projected, w->qkv, &(Then){.kind = HALF, .out = mine});
    memset(sums->norm1, 0, d * sizeof(float));
    norm_rows_backward(n, d, BFLOAT16, x + o * d, b->norm1, b->scales1 + o, mine, between,
                       sums->x + o * d, sums->norm1);
}

/* Where the weights' gradients of a thread go: the first one's are those that are asked for. */
static Gradients summed(const Gradients *to, const Packed *w, int thread, char **spare) {
    Gradients mine = *to;
    if (!thread) return mine;
    const int64_t d = w->d;
    mine.qkv = (float *)take(spare, 2 * d * w->wide), mine.out = (float *)take(spare, 2 * d * d);
    mine.up = (float *)take(spare, 2 * d * w->f), mine.down = (float *)take(spare, 2 * d * w->f);
    return mine;
}

static void add_up(int64_t count, float *to, const float *from) {
    for (int64_t i = 0; i < count; i += 16) store(to + i, load(to + i) + load(from + i));
}

void block_backward(const Heads *h, const Block *b, const float *x, const float *gradient,
                    const Gradients *to, int threads) {
    const int64_t n = (int64_t)h->batch * h->length;
    const int size = chunk(h, threads), few = weights(h, b->hidden) <= FEW;
    char *spare = b->spare;
    const Packed w = packed(h, b, 1, &spare, threads);
    const int d = w.d, wide = w.wide, f = w.f;
    Changes changes;
    half *summing = 0;
    if (!few) {
        changes = (Changes){take(&spare, n * d), take(&spare, n * f), take(&spare, n * d),
                            take(&spare, n * wide)};
        summing = take(&spare, (int64_t)TOKENS * ((f > wide ? f : wide) + d));
    }
    const int64_t each = align(chunk_spare(h, b->hidden, threads));
#pragma omp parallel num_threads(threads)
    {
        begin_tiles();
        const int me = omp_get_thread_num();
        char *own = spare + me * each;
        Gradients mine = *to;
        if (few) mine = summed(to, &w, me, &own);
        int fresh = 1;
#pragma omp for schedule(static)
        for (int from = 0; from < h->batch; from += size) {
            mine.norm1 = to->norm1 + (int64_t)(from / size) * d;
            mine.norm2 = to->norm2 + (int64_t)(from / size) * d;
            backward(h, b, &w, few ? 0 : &changes, from,
                     h->batch - from < size ? h->batch - from : size, x, gradient, &mine, fresh,
                     own);
            fresh = 0;
        }
        for (int other = 1; few && other < omp_get_num_threads(); other++) {
#pragma omp barrier
            if (me != other || fresh) continue;
            add_up((int64_t)d * wide, to->qkv, mine.qkv), add_up((int64_t)d * d, to->out, mine.out);
            add_up((int64_t)d * f, to->up, mine.up), add_up((int64_t)d * f, to->down, mine.down);
        }
        _tile_release();
    }
    if (few) return;
    weight_gradient(n, d, f, changes.fed, b->above, 1, to->down, summing, threads);
    weight_gradient(n, f, d, changes.above, b->normed2, 0, to->up, summing, threads);
    weight_gradient(n, d, d, changes.mixed, b->mix, 0, to->out, summing, threads);
    weight_gradient(n, wide, d, changes.projected, b->normed1, 0, to->qkv, summing, threads);
}

/* ---- orthogonal updates --------------------------------------------------------------------- */

/* SIDE x SIDE of a symmetric matrix (all, all) at (m, n), and of what mirrors it. */
static void mirrored(int all, int m, int n, const float *c, half *to) {
    half block[SIDE * SIDE] __attribute__((aligned(64)));
    for (int i = 0; i < SIDE * SIDE; i += 16) put16(block + i, load(c + i));
    for (int r = 0; r < SIDE; r++)
        memcpy(to + (int64_t)(m + r) * all + n, block + SIDE * r, 2 * SIDE);
    if (m == n) return;
    for (int i = 0; i < SIDE; i += 16)
        transposed(SIDE, block, SIDE, i, to + (int64_t)(n + i) * all + m, all);
}

int64_t orthogonal_spare(int rows, int columns) {
    const int64_t few = rows < columns ? rows : columns, many = rows < columns ? columns : rows;
    return 3 * align(2 * few * many) + 3 * align(2 * few * few);
}

/* Jordan's quintic, five times, of one matrix in place: optim._newton_schulz of (few, many). */
static void orthogonal(int few, int many, half *x, float a, float b, float c, char *spare) {
    half *next = take(&spare, (int64_t)few * many);
    uint32_t *other = (uint32_t *)take(&spare, (int64_t)few * many);
    half *gram = take(&spare, (int64_t)few * few), *power = take(&spare, (int64_t)few * few);
    uint32_t *small = (uint32_t *)take(&spare, (int64_t)few * few);
    float sums[SIDE * SIDE] __attribute__((aligned(64)));
    const int64_t count = (int64_t)few * many;
    double square = 0;
    for (int64_t i = 0; i < count; i += 16) {
        const vec v = get16(x + i);
        square += sum(v * v);
    }
    const float scale = 1 / ((float)sqrt(square) + 1e-7f);
    for (int64_t i = 0; i < count; i += 16) put16(x + i, get16(x + i) * scale);
    for (int round = 0; round < 5; round++) {
        for (int n = 0; n < few; n += 16) pack_columns(many, x, many, n, other);
        for (int m = 0; m < few; m += SIDE)
            for (int n = 0; n <= m; n += SIDE) {
                product(many, x + (int64_t)m * many, many, other, n, sums, SIDE);
                mirrored(few, m, n, sums, gram);
            }
        for (int n = 0; n < few; n += 16) pack_rows(few, gram, few, n, small);
        for (int m = 0; m < few; m += SIDE)
            for (int n = 0; n <= m; n += SIDE) {
                product(few, gram + (int64_t)m * few, few, small, n, sums, SIDE);
                for (int r = 0; r < SIDE; r++)
                    for (int i = 0; i < SIDE; i += 16)
                        store(sums + SIDE * r + i,
                              b * get16(gram + (int64_t)(m + r) * few + n + i) +
                                  c * load(sums + SIDE * r + i));
                mirrored(few, m, n, sums, power);
            }
        for (int n = 0; n < many; n += 16) pack_rows(few, x, many, n, other);
        for (int m = 0; m < few; m += SIDE)
            for (int n = 0; n < many; n += SIDE) {
                product(few, power + (int64_t)m * few, few, other, n, sums, SIDE);
                for (int r = 0; r < SIDE; r++)
                    for (int i = 0; i < SIDE; i += 16) {
                        const int64_t at = (int64_t)(m + r) * many + n + i;
                        put16(next + at, a * get16(x + at) + load(sums + SIDE * r + i));
                    }
            }
        half *swapped = x;
        x = next, next = swapped;
    }
    memcpy(next, x, 2 * count); /* after an odd number of rounds the other one is the caller's */
}

/* matrices (count, rows, columns), each in place. spare: of each thread, orthogonal_spare. */
void orthogonalise(int count, int rows, int columns, half *matrices, float a, float b, float c,
                   char *spare, int threads) {
    const int64_t size = (int64_t)rows * columns;
    const int tall = rows > columns;
#pragma omp parallel num_threads(threads)
    {
        char *own = spare + omp_get_thread_num() * orthogonal_spare(rows, columns);
        begin_tiles();
#pragma omp for schedule(dynamic)
        for (int number = 0; number < count; number++) {
            half *x = matrices + number * size;
            if (!tall) {
                orthogonal(rows, columns, x, a, b, c, own);
                continue;
            }
            char *rest = own;
            half *turned = take(&rest, size);
            for (int m = 0; m < columns; m += 16)
                transposed(rows, x, columns, m, turned + (int64_t)m * rows, rows);
            orthogonal(columns, rows, turned, a, b, c, rest);
            for (int m = 0; m < rows; m += 16)
                transposed(columns, turned, rows, m, x + (int64_t)m * columns, columns);
        }
        _tile_release();
    }
}

#else
int tiles(void) { return 0; }
#endif
