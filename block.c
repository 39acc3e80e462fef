/* A whole block of the default wiring, forward and backward, in bfloat16 on a processor with tiles
   (AMX): pre-RMSNorm, attention, pre-RMSNorm, squared ReLU. What Block.forward of model.py works out,
   by train.c's functions and products of its own: a call for each operation of a small model takes
   longer than the operation.

   Rows are tokens. A product's second operand is packed as the tiles take it: (columns / 16, inputs
   / 2, 16) pairs of numbers of neighbouring inputs. All sizes are multiples of SIDE, but for the length
   of a sequence, which is padded. Every sum has one order, however many threads there are. */

#include "train.h"

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

enum { SIDE = 32, CHUNK = 512 }; /* CHUNK tokens of a weight's gradient are summed before the next */
typedef uint16_t half;

/* Whether the system lets this process use tiles: asked for once (arch_prctl, XTILEDATA). */
int tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    return !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA);
}

static void begin_tiles(void) {
    struct __attribute__((packed)) {
        uint8_t palette, start, none[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape;
    memset(&shape, 0, sizeof shape);
    shape.palette = 1;
    for (int i = 0; i < 8; i++) shape.bytes[i] = 64, shape.rows[i] = 16;
    _tile_loadconfig(&shape);
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

/* Columns n ... n + 15 of x (inputs, columns), whose rows lie `next` apart. */
static inline void pack_rows(int inputs, const half *x, int64_t next, int n, uint32_t *out) {
    out += (int64_t)n * (inputs / 2), x += n;
    for (int p = 0; p < inputs / 2; p++, x += 2 * next)
        _mm512_storeu_si512(out + 16 * p, pairs(sixteen(x), sixteen(x + next)));
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

/* Rows m ... m + 15 of the transpose of x (length, columns): out (16, length). */
static inline void transposed(int length, const half *x, int64_t next, int m, half *out,
                              int64_t to) {
    for (int k = 0; k < length; k += 32) {
        uint32_t block[256];
        for (int p = 0; p < 16; p++) {
            const half *row = x + (int64_t)(k + 2 * p) * next + m;
            _mm512_storeu_si512(block + 16 * p, pairs(sixteen(row), sixteen(row + next)));
        }
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

static inline void product(int inputs, const half *a, int64_t next, const uint32_t *b, int n,
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
} Then;

static inline void then(const Then *t, int64_t i, vec v) {
    const vec zero = {0};
    if (t->kind == ADDED) {
        if (t->drop->below) v *= kept(t->drop, i);
        store(t->sum + i, load(t->stream + i) + v);
        return;
    }
    if (t->kind == SLOPED) {
        const vec up = get16(t->up + i);
        v *= 2.0f * choose(up > zero, up, zero);
    }
    put16(t->out + i, v);
    if (t->kind == SQUARED) {
        const vec up = get16(t->out + i), positive = choose(up > zero, up, zero);
        put16(t->square + i, positive * positive);
    }
}

/* a (rows, inputs) times b packed (inputs, columns). */
static void linear(int rows, int columns, int inputs, const half *a, const uint32_t *b,
                   const Then *t, int threads) {
    const int wide = columns / SIDE, jobs = rows / SIDE * wide;
#pragma omp parallel num_threads(threads) if ((int64_t)rows * columns * inputs > 1 << 20)
    {
        float c[SIDE * SIDE] __attribute__((aligned(64)));
        const int all = omp_get_num_threads(), me = omp_get_thread_num();
        begin_tiles();
        for (int job = (int64_t)jobs * me / all; job < (int64_t)jobs * (me + 1) / all; job++) {
            const int m = job / wide * SIDE, n = job % wide * SIDE;
            product(inputs, a + (int64_t)m * inputs, inputs, b, n, c, SIDE);
            for (int r = 0; r < SIDE; r++)
                for (int i = 0; i < SIDE; i += 16)
                    then(t, (int64_t)(m + r) * columns + n + i, load(c + SIDE * r + i));
        }
        _tile_release();
    }
}

/* out (outputs, inputs) = g' x, of g (rows, outputs) and x (rows, inputs). spare: CHUNK * (outputs
   + inputs) halves. */
static void weight_gradient(int rows, int outputs, int inputs, const half *g, const half *x,
                            float *out, half *spare, int threads) {
    uint32_t *b = (uint32_t *)(spare + (int64_t)CHUNK * outputs);
    const int wide = inputs / SIDE, jobs = outputs / SIDE * wide;
#pragma omp parallel num_threads(threads) if ((int64_t)rows * outputs * inputs > 1 << 20)
    {
        const int all = omp_get_num_threads(), me = omp_get_thread_num();
        begin_tiles();
        for (int from = 0; from < rows; from += CHUNK) {
            const int size = rows - from < CHUNK ? rows - from : CHUNK;
#pragma omp for schedule(static) nowait
            for (int m = 0; m < outputs; m += 16)
                transposed(size, g + (int64_t)from * outputs, outputs, m,
                           spare + (int64_t)m * size, size);
#pragma omp for schedule(static)
            for (int n = 0; n < inputs; n += 16)
                pack_rows(size, x + (int64_t)from * inputs, inputs, n, b);
            for (int job = (int64_t)jobs * me / all; job < (int64_t)jobs * (me + 1) / all; job++) {
                const int m = job / wide * SIDE, n = job % wide * SIDE;
                float *c = out + (int64_t)m * inputs + n;
                const uint32_t *panel = b + (int64_t)n * (size / 2);
                if (from) again(c, inputs);
                else zeros();
                multiply(size, spare + (int64_t)m * size, size, panel, panel + 8 * (int64_t)size);
                keep(c, inputs);
            }
#pragma omp barrier
        }
        _tile_release();
    }
}

/* ---- attention ------------------------------------------------------------------------------ */

static int64_t align(int64_t bytes) { return (bytes + 63) / 64 * 64; }

static half *take(char **spare, int64_t halves_) {
    half *p = (half *)*spare;
    *spare += align(2 * halves_);
    return p;
}

/* Rows of a head, `next` apart, padded with zeros to `padded`. */
static void copied(int length, int padded, int width, const half *from, int64_t next, half *to) {
    for (int t = 0; t < length; t++) memcpy(to + t * width, from + t * next, 2 * width);
    memset(to + length * width, 0, 2 * (int64_t)(padded - length) * width);
}

/* Rows t ... t + SIDE - 1 of the scores, in place: to probabilities, over what each position sees. */
static void probabilities(const Heads *h, int padded, int64_t sequence, int t, const int32_t *first,
                          float *scores, float factor) {
    const vec zero = {0}, nothing = zero - INFINITY;
    for (int r = 0; r < SIDE; r++) {
        float *row = scores + (int64_t)r * padded;
        const int begin = first && t + r < h->length ? first[sequence * h->length + t + r] : 0;
        const int end = t + r + 1, all = t + SIDE;
        vec most = nothing, total = zero;
        for (int i = 0; i < all; i += 16) {
            const ints n = counted(i);
            const vec s = choose((n >= begin) & (n < end), load(row + i) * factor, nothing);
            most = choose(s > most, s, most);
            store(row + i, s);
        }
        const float top = largest(most);
        for (int i = 0; i < all; i += 16) {
            const vec s = load(row + i), e = choose(s == nothing, zero, exponential(s - top));
            total += e;
            store(row + i, e);
        }
        const float share = 1 / sum(total);
        for (int i = 0; i < all; i += 16) store(row + i, load(row + i) * share);
    }
}

int64_t attention_spare(int length, int width) {
    const int64_t padded = (length + SIDE - 1) / SIDE * SIDE;
    return 9 * align(2 * padded * width) + 2 * align(4 * padded * width) +
           2 * align(4 * SIDE * padded) + 4 * align(2 * padded * padded);
}

/* out (B, T, heads * width) of q (B, heads, T, width), k, v (B, groups, T, width). */
static void attend(const Heads *h, const half *q, const half *k, const half *v,
                   const int32_t *first, const Drop *drop, half *out, char *spares, int threads) {
    const int width = h->width, length = h->length, each = h->heads / h->groups;
    const int padded = (length + SIDE - 1) / SIDE * SIDE, stream = h->heads * width;
    const float factor = 1 / sqrtf(width);
#pragma omp parallel num_threads(threads)
    {
        begin_tiles();
        char *own = spares + omp_get_thread_num() * attention_spare(length, width);
        half *rows = take(&own, padded * width), *kp = take(&own, padded * width);
        half *vp = take(&own, padded * width), *p = take(&own, SIDE * padded);
        float *s = (float *)take(&own, 2 * SIDE * padded), c[SIDE * SIDE];
#pragma omp for schedule(static)
        for (int64_t job = 0; job < (int64_t)h->batch * h->groups; job++) {
            const int64_t b = job / h->groups, g = job % h->groups;
            copied(length, padded, width, k + job * length * width, width, rows);
            for (int n = 0; n < padded; n += 16) pack_columns(width, rows, width, n, (uint32_t *)kp);
            copied(length, padded, width, v + job * length * width, width, rows);
            for (int n = 0; n < width; n += 16) pack_rows(padded, rows, width, n, (uint32_t *)vp);
            for (int head = g * each; head < (g + 1) * each; head++) {
                const int64_t number = b * h->heads + head;
                copied(length, padded, width, q + number * length * width, width, rows);
                for (int t = 0; t < padded; t += SIDE) {
                    for (int n = 0; n <= t; n += SIDE)
                        product(width, rows + t * width, width, (uint32_t *)kp, n, s + n, padded);
                    probabilities(h, padded, b, t, first, s, factor);
                    for (int r = 0; r < SIDE; r++)
                        for (int i = 0; i < t + SIDE; i += 16) {
                            vec e = load(s + r * padded + i);
                            if (drop->below)
                                e *= kept(drop, (number * length + t + r) * length + i);
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
        _tile_release();
    }
}

static void rounded(int64_t count, const float *from, half *to) {
    for (int64_t i = 0; i < count; i += 16) put16(to + i, load(from + i));
}

/* Gradients of q, k and v from that of what attend gave, g (B, T, heads * width). */
static void attend_backward(const Heads *h, const half *q, const half *k, const half *v,
                            const int32_t *first, const Drop *drop, const half *gradient,
                            half *to_q, half *to_k, half *to_v, char *spares, int threads) {
    const int width = h->width, length = h->length, each = h->heads / h->groups;
    const int padded = (length + SIDE - 1) / SIDE * SIDE, stream = h->heads * width;
    const float factor = 1 / sqrtf(width);
#pragma omp parallel num_threads(threads)
    {
        begin_tiles();
        char *own = spares + omp_get_thread_num() * attention_spare(length, width);
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
        float c[SIDE * SIDE];
#pragma omp for schedule(static)
        for (int64_t job = 0; job < (int64_t)h->batch * h->groups; job++) {
            const int64_t b = job / h->groups, g = job % h->groups;
            copied(length, padded, width, k + job * length * width, width, rows);
            for (int n = 0; n < padded; n += 16) pack_columns(width, rows, width, n, (uint32_t *)kc);
            for (int n = 0; n < width; n += 16) pack_rows(padded, rows, width, n, (uint32_t *)kr);
            copied(length, padded, width, v + job * length * width, width, rows);
            for (int n = 0; n < padded; n += 16) pack_columns(width, rows, width, n, (uint32_t *)vc);
            for (int head = g * each; head < (g + 1) * each; head++) {
                const int64_t number = b * h->heads + head;
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
                    probabilities(h, padded, b, t, first, s, factor);
                    for (int r = 0; r < SIDE; r++) {
                        const int64_t from = (number * length + t + r) * length;
                        const float *e = s + r * padded;
                        float *along = d + r * padded;
                        vec total = {0};
                        for (int i = 0; i < t + SIDE; i += 16) {
                            const vec share = load(e + i);
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
                                  (load(along + i) - mean) * load(e + i) * factor);
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
        _tile_release();
    }
}

/* ---- the block ------------------------------------------------------------------------------ */

typedef struct {
    int32_t hidden, padding;
    const float *norm1, *qkv, *out, *norm2, *up, *down; /* weights */
    const int32_t *first;
    Drop mixing, mixed, fed; /* of attention's shares; of what the mixer, the feed-forward adds */
    /* kept for the backward pass: */
    half *normed1, *projected, *mix, *normed2, *above, *squared;
    float *scales1, *scales_qk, *between, *scales2;
    char *spare;
} Block;

static int stream_width(const Heads *h) { return h->heads * h->width; }
static int qkv_width(const Heads *h) { return (h->heads + 2 * h->groups) * h->width; }
static int64_t tokens(const Heads *h) { return (int64_t)h->batch * h->length; }

/* Bytes that a call needs beside what it keeps. */
int64_t block_spare(const Heads *h, int hidden, int threads) {
    const int64_t n = tokens(h), d = stream_width(h), q = qkv_width(h);
    const int64_t widest = hidden > q ? hidden : q;
    return align(2 * d * widest) + 3 * align(2 * n * q) + align(2 * n * widest) +
           3 * align(2 * n * d) + align(4 * n * d) + align(2 * (int64_t)CHUNK * (widest + d)) +
           threads * attention_spare(h->length, h->width) + 4096;
}

/* out (B, T, D) of the stream x. */

#include <time.h>
double prof[64]; static double last; static double now(void){struct timespec t; clock_gettime(CLOCK_MONOTONIC,&t); return t.tv_sec*1e3+t.tv_nsec*1e-6;}
#define MARK(i) do{double t_=now(); prof[i]+=t_-last; last=t_;}while(0)
void block(const Heads *h, const Block *b, const float *x, float *out, int threads) {
    const int64_t n = tokens(h); last=now();
    const int d = stream_width(h), wide = qkv_width(h), f = b->hidden;
    char *spare = b->spare;
    uint32_t *w = (uint32_t *)take(&spare, (int64_t)d * (f > wide ? f : wide));
    half *q = take(&spare, n * d), *k = take(&spare, n * h->groups * h->width);
    half *v = take(&spare, n * h->groups * h->width);

    norm(n, d, BFLOAT16, x, b->norm1, h->eps, b->normed1, b->scales1, threads); MARK(0);
    pack_weight(wide, d, b->qkv, w, threads); MARK(1);
    linear(n, wide, d, b->normed1, w, &(Then){.kind = HALF, .out = b->projected}, threads); MARK(2);
    split(h, BFLOAT16, b->projected, q, k, v, b->scales_qk, threads); MARK(3);
    attend(h, q, k, v, b->first, &b->mixing, b->mix, spare, threads); MARK(4);
    pack_weight(d, d, b->out, w, threads); MARK(5);
    linear(n, d, d, b->mix, w,
           &(Then){.kind = ADDED, .stream = x, .sum = b->between, .drop = &b->mixed}, threads); MARK(6);

    norm(n, d, BFLOAT16, b->between, b->norm2, h->eps, b->normed2, b->scales2, threads); MARK(7);
    pack_weight(f, d, b->up, w, threads); MARK(8);
    linear(n, f, d, b->normed2, w,
           &(Then){.kind = SQUARED, .out = b->above, .square = b->squared}, threads); MARK(9);
    pack_weight(d, f, b->down, w, threads); MARK(10);
    linear(n, d, f, b->squared, w,
           &(Then){.kind = ADDED, .stream = b->between, .sum = out, .drop = &b->fed}, threads); MARK(11);
}

typedef struct { /* gradients, of the weights and the stream; norms' in parts (SHARES, D) */
    float *norm1, *qkv, *out, *norm2, *up, *down, *x;
} Gradients;

void block_backward(const Heads *h, const Block *b, const float *x, const float *gradient,
                    const Gradients *to, int threads) {
    const int64_t n = tokens(h); last=now();
    const int d = stream_width(h), wide = qkv_width(h), f = b->hidden, kv = h->groups * h->width;
    const int widest = f > wide ? f : wide;
    char *spare = b->spare;
    uint32_t *w = (uint32_t *)take(&spare, (int64_t)d * widest);
    half *mine = take(&spare, n * d), *inner = take(&spare, n * widest);
    float *between = (float *)take(&spare, 2 * n * d);
    half *some = take(&spare, (int64_t)CHUNK * (widest + d));

    add_backward(n * d, BFLOAT16, gradient, mine, &b->fed, threads); MARK(12);
    weight_gradient(n, d, f, mine, b->squared, to->down, some, threads); MARK(13);
    pack_weight_back(d, f, b->down, w, threads); MARK(14);
    linear(n, f, d, mine, w, &(Then){.kind = SLOPED, .out = inner, .up = b->above}, threads); MARK(15);
    weight_gradient(n, f, d, inner, b->normed2, to->up, some, threads); MARK(16);
    pack_weight_back(f, d, b->up, w, threads); MARK(17);
    linear(n, d, f, inner, w, &(Then){.kind = HALF, .out = mine}, threads); MARK(18);
    norm_backward(n, d, BFLOAT16, b->between, b->norm2, b->scales2, mine, gradient, between,
                  to->norm2, threads); MARK(19);

    half *q = take(&spare, n * d), *k = take(&spare, n * kv), *v = take(&spare, n * kv);
    half *to_q = take(&spare, n * d), *to_k = take(&spare, n * kv), *to_v = take(&spare, n * kv);
    add_backward(n * d, BFLOAT16, between, mine, &b->mixed, threads); MARK(20);
    weight_gradient(n, d, d, mine, b->mix, to->out, some, threads); MARK(21);
    pack_weight_back(d, d, b->out, w, threads); MARK(22);
    half *to_mix = take(&spare, n * d);
    linear(n, d, d, mine, w, &(Then){.kind = HALF, .out = to_mix}, threads); MARK(23);
    split(h, BFLOAT16, b->projected, q, k, v, b->scales_qk, threads); MARK(24);
    attend_backward(h, q, k, v, b->first, &b->mixing, to_mix, to_q, to_k, to_v, spare, threads); MARK(25);
    split_backward(h, BFLOAT16, b->projected, b->scales_qk, to_q, to_k, to_v, inner, threads); MARK(26);
    weight_gradient(n, wide, d, inner, b->normed1, to->qkv, some, threads); MARK(27);
    pack_weight_back(wide, d, b->qkv, w, threads); MARK(28);
    linear(n, d, wide, inner, w, &(Then){.kind = HALF, .out = mine}, threads); MARK(29);
    norm_backward(n, d, BFLOAT16, x, b->norm1, b->scales1, mine, between, to->x, to->norm1,
                  threads); MARK(30);
}

#else
int tiles(void) { return 0; }
#endif
