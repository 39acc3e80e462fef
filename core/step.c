/* One step of a transformer for a few tokens: what model.py says, in one call.

   Each token stands at a position of a row; its keys and values go into that row's cache, and it
   sees what the row holds up to itself. A result is a function of its row alone, to the last bit:
   every sum has one order, whatever tokens are beside it and however many threads there are.

   Weights lie in panels of PANEL outputs: for each input, the weights to all of them side by side
   (zeros beyond the last output), in float32, bfloat16, float16 or int8 (native.py puts them so).
   Keys lie in blocks of LANES positions, (row, group, block, head_width, LANES); values are (row,
   group, position, value_width), value_width a multiple of PAIR. Buffers are (tokens, stride). */

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 4 };
#elif defined(__AVX__) /* 16 registers only */
enum { LANES = 8, VECTORS = 2 };
#else
enum { LANES = 4, VECTORS = 4 };
#endif
enum { PANEL = VECTORS * LANES, PAIR = 2 * LANES };

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t shorts __attribute__((vector_size(2 * LANES)));
typedef int8_t bytes __attribute__((vector_size(LANES)));

enum { FLOAT32, BFLOAT16, FLOAT16, INT8 };
enum { NO_NORM, RMSNORM, LAYERNORM };
enum { RELU, GELU, RELU2, SWIGLU };

typedef struct { /* scale: of each output (int8); scale and bias padded to whole panels, or none */
    int32_t inputs, outputs, kind;
    const void *weight;
    const float *scale, *bias;
} Linear;
typedef struct {
    const float *weight, *bias;
} Norm;
typedef struct {
    Norm mixer_norm, ffn_norm;
    Linear qkv, out, up, down;
    float *keys, *values;
} Block;
typedef struct {
    int32_t layers, width, heads, groups, head_width, value_width, hidden, positions;
    int32_t norm, pre, ffn, qk_norm, stride, logits_stride;
    float eps, softcap, embedding_scale;
    const float *embedding; /* (vocab, width) */
    Norm last;
    Linear head;
    Block *blocks;
    float *stream, *normed, *wide, *scores; /* buffers of at most `tokens`; scores per thread */
} Model;
typedef struct { /* of each token, in order of position where several are of one row */
    int32_t count, wanted; /* wanted: the last so many are those whose logits are asked for */
    const int64_t *ids, *rows, *at, *places; /* places: rows of the three tables, each or none */
    const float *cos, *sin, *place;          /* (., head_width), (., head_width), (., width) */
    float *logits;                           /* (wanted, logits_stride) */
} Tokens;

int lanes(void) { return LANES; }
int panel(void) { return PANEL; }

/* ---- vectors -------------------------------------------------------------------------------- */

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

/* LANES weights, in float32. */
static inline vec widen(const char *p, int kind) {
    if (kind == FLOAT32) return load((const float *)p);
    if (kind == INT8) {
        bytes b;
        memcpy(&b, p, sizeof b);
        return __builtin_convertvector(b, vec);
    }
    shorts s;
    memcpy(&s, p, sizeof s);
#ifdef __F16C__
    if (kind == FLOAT16) {
        vec v;
        __asm__("vcvtph2ps %1, %0" : "=v"(v) : "vm"(s));
        return v;
    }
#endif
    ints bits = __builtin_convertvector(s, ints);
    if (kind == BFLOAT16) return (vec)(bits << 16);
    vec size = (vec)((bits & 0x7fff) << 13) * 0x1p112f; /* float16: 5 bits of exponent, not 8 */
    return (vec)((ints)size | (bits & 0x8000) << 16);
}

/* ---- products ------------------------------------------------------------------------------- */

/* `count` tokens (a constant) times one panel. */
static inline __attribute__((always_inline)) void tile(
    const Linear *linear, int kind, int count, int panel, const float *x, float *y, int stride,
    int columns, int add) {
    const int size = (kind == FLOAT32 ? 4 : kind == INT8 ? 1 : 2) * LANES, inputs = linear->inputs;
    const char *weight = (const char *)linear->weight + (int64_t)panel * inputs * VECTORS * size;
    vec total[6][VECTORS];
    memset(total, 0, sizeof total);
    for (int i = 0; i < inputs; i++, weight += VECTORS * size) {
        vec w[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) w[v] = widen(weight + v * size, kind);
#pragma GCC unroll 6
        for (int t = 0; t < count; t++)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) total[t][v] += w[v] * x[(int64_t)t * stride + i];
    }
#pragma GCC unroll 6
    for (int t = 0; t < count; t++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            const int first = panel * PANEL + v * LANES;
            float *out = y + (int64_t)t * columns + first;
            vec value = total[t][v];
            if (linear->scale) value *= load(linear->scale + first);
            if (linear->bias) value += load(linear->bias + first);
            store(out, add ? load(out) + value : value);
        }
}

/* y (count, columns) = or, where `add`, += x (count, stride) times the weight. */
#define TILES(KIND)                                                                            \
    for (; count - t >= 6; t += 6) TILE(KIND, 6);                                              \
    for (; count - t >= 3; t += 3) TILE(KIND, 3);                                              \
    for (; count - t >= 1; t += 1) TILE(KIND, 1);                                              \
    break;
#define TILE(KIND, COUNT)                                                                      \
    tile(linear, KIND, COUNT, panel, x + (int64_t)t * stride, y + (int64_t)t * columns, stride, \
         columns, add)

static void product(const Linear *linear, int count, const float *x, int stride, float *y,
                    int columns, int add) {
    const int panels = (linear->outputs + PANEL - 1) / PANEL;
#pragma omp for schedule(static)
    for (int panel = 0; panel < panels; panel++) {
        int t = 0;
        switch (linear->kind) {
        case FLOAT32: TILES(FLOAT32)
        case BFLOAT16: TILES(BFLOAT16)
        case FLOAT16: TILES(FLOAT16)
        default: TILES(INT8)
        }
    }
}

/* ---- what is between products --------------------------------------------------------------- */

static void normalise(const Model *m, const Norm *norm, int count, const float *x, float *y) {
    const int width = m->width;
#pragma omp for schedule(static)
    for (int t = 0; t < count; t++) {
        const float *from = x + (int64_t)t * m->stride;
        float *to = y + (int64_t)t * m->stride;
        double mean = 0, square = 0;
        if (m->norm == LAYERNORM)
            for (int i = 0; i < width; i++) mean += from[i];
        mean /= width;
        for (int i = 0; i < width; i++) square += (from[i] - mean) * (from[i] - mean);
        const float scale = m->norm == NO_NORM ? 1 : 1 / sqrt(square / width + m->eps);
        for (int i = 0; i < width; i++) {
            to[i] = (from[i] - (float)mean) * scale;
            if (norm->weight) to[i] *= norm->weight[i];
            if (norm->bias) to[i] += norm->bias[i];
        }
    }
}

/* A query's or key's head: normalised, turned by its position (half-split pairs). */
static void turn(const Model *m, float *x, const float *cos, const float *sin) {
    const int width = m->head_width, half = width / 2;
    if (m->qk_norm) {
        double square = 0;
        for (int i = 0; i < width; i++) square += (double)x[i] * x[i];
        const float scale = 1 / sqrt(square / width + m->eps);
        for (int i = 0; i < width; i++) x[i] *= scale;
    }
    if (cos)
        for (int i = 0; i < half; i++) {
            const float a = x[i], b = x[i + half];
            x[i] = a * cos[i] + b * sin[i];
            x[i + half] = b * cos[i + half] + a * sin[i + half];
        }
}

/* Queries and keys are turned in place; keys and values go to the cache. */
static void append(const Model *m, const Block *block, const Tokens *tokens) {
    const int width = m->head_width, each = m->heads + m->groups;
#pragma omp for schedule(static)
    for (int item = 0; item < tokens->count * each; item++) {
        const int t = item / each, head = item % each, group = head - m->heads;
        float *x = m->wide + (int64_t)t * m->stride + head * width;
        const int64_t angle = tokens->places[t] * width, at = tokens->at[t];
        turn(m, x, tokens->cos ? tokens->cos + angle : 0, tokens->cos ? tokens->sin + angle : 0);
        if (group < 0) continue;
        const int64_t first = (tokens->rows[t] * m->groups + group) * m->positions;
        float *key = block->keys + (first + at / LANES * LANES) * width + at % LANES;
        for (int i = 0; i < width; i++) key[i * LANES] = x[i];
        memcpy(block->values + (first + at) * m->value_width, x + m->groups * width,
               width * sizeof(float));
    }
}

/* What one head sees of positions 0 ... at, into its query's place. */
static void attend(const Model *m, float *query, const float *keys, const float *values, int at,
                   float *scores) {
    const int width = m->head_width, blocks = at / LANES + 1;
    const float scale = 1 / sqrtf(width);
    vec most = (vec){0} - INFINITY;
    for (int b = 0; b < blocks; b++) {
        vec score = {0};
        for (int i = 0; i < width; i++) score += load(keys + (b * width + i) * LANES) * query[i];
        score *= scale;
        for (int i = at % LANES + 1; b == blocks - 1 && i < LANES; i++) score[i] = -INFINITY;
        most = choose(score > most, score, most);
        store(scores + b * LANES, score);
    }
    float top = most[0];
    for (int i = 1; i < LANES; i++) top = most[i] > top ? most[i] : top;
    vec total = {0};
    for (int b = 0; b < blocks; b++) {
        vec score = load(scores + b * LANES), p = exponential(score - top);
        p = choose(score == -INFINITY, (vec){0}, p);
        total += p;
        store(scores + b * LANES, p);
    }
    float share = 0;
    for (int i = 0; i < LANES; i++) share += total[i];
    for (int first = 0; first < width; first += PAIR, values += PAIR) {
        vec a = {0}, b = {0};
        for (int64_t s = 0; s <= at; s++) {
            a += load(values + s * m->value_width) * scores[s];
            b += load(values + s * m->value_width + LANES) * scores[s];
        }
        float mixed[PAIR];
        store(mixed, a / share);
        store(mixed + LANES, b / share);
        memcpy(query + first, mixed, (width - first < PAIR ? width - first : PAIR) * sizeof(float));
    }
}

static void attention(const Model *m, const Block *block, const Tokens *tokens, float *scores) {
#pragma omp for schedule(static)
    for (int item = 0; item < tokens->count * m->heads; item++) {
        const int t = item / m->heads, head = item % m->heads;
        const int group = head / (m->heads / m->groups);
        const int64_t first = (tokens->rows[t] * m->groups + group) * m->positions;
        attend(m, m->wide + (int64_t)t * m->stride + head * m->head_width,
               block->keys + first * m->head_width, block->values + first * m->value_width,
               tokens->at[t], scores);
    }
}

static void activate(const Model *m, int count) {
    const int hidden = m->hidden;
#pragma omp for schedule(static)
    for (int t = 0; t < count; t++) {
        float *x = m->wide + (int64_t)t * m->stride;
        for (int i = 0; i < hidden; i += LANES) { /* the buffer is padded */
            vec a = load(x + i), zero = {0};
            vec positive = choose(a > zero, a, zero);
            if (m->ffn == RELU) a = positive;
            if (m->ffn == RELU2) a = positive * positive;
            if (m->ffn == GELU) a *= sigmoid(1.5957691216f * (a + 0.044715f * a * a * a));
            if (m->ffn == SWIGLU) a *= sigmoid(a) * load(x + hidden + i);
            store(x + i, a);
        }
    }
}

/* ---- the step ------------------------------------------------------------------------------- */

static void embed(const Model *m, const Tokens *tokens) {
#pragma omp for schedule(static)
    for (int t = 0; t < tokens->count; t++) {
        const float *from = m->embedding + tokens->ids[t] * m->width;
        const float *place = tokens->place ? tokens->place + tokens->places[t] * m->width : 0;
        float *x = m->stream + (int64_t)t * m->stride;
        for (int i = 0; i < m->width; i++)
            x[i] = from[i] * m->embedding_scale + (place ? place[i] : 0);
    }
}

static void through_block(const Model *m, const Block *b, const Tokens *tokens, float *scores) {
    const int count = tokens->count, stride = m->stride;
    float *x = m->stream, *h = m->pre ? m->normed : x;
    if (m->pre) normalise(m, &b->mixer_norm, count, x, h);
    product(&b->qkv, count, h, stride, m->wide, stride, 0);
    append(m, b, tokens);
    attention(m, b, tokens, scores);
    product(&b->out, count, m->wide, stride, x, stride, 1);
    if (!m->pre) normalise(m, &b->mixer_norm, count, x, x);
    if (m->pre) normalise(m, &b->ffn_norm, count, x, h);
    product(&b->up, count, h, stride, m->wide, stride, 0);
    activate(m, count);
    product(&b->down, count, m->wide, stride, x, stride, 1);
    if (!m->pre) normalise(m, &b->ffn_norm, count, x, x);
}

void step(const Model *m, const Tokens *tokens, int threads) {
    const int wanted = tokens->wanted;
    (void)threads;
#pragma omp parallel num_threads(threads)
    {
        float *scores = m->scores;
#ifdef _OPENMP
        scores += (int64_t)omp_get_thread_num() * m->positions;
#endif
        embed(m, tokens);
        for (int layer = 0; layer < m->layers; layer++)
            through_block(m, m->blocks + layer, tokens, scores);
        const int64_t first = (int64_t)(tokens->count - wanted) * m->stride;
        float *last = m->stream + first;
        if (m->pre) {
            normalise(m, &m->last, wanted, last, m->normed + first);
            last = m->normed + first;
        }
        product(&m->head, wanted, last, m->stride, tokens->logits, m->logits_stride, 0);
        if (m->softcap > 0) {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < (int64_t)wanted * m->logits_stride; i++)
                tokens->logits[i] = m->softcap * tanhf(tokens->logits[i] / m->softcap);
        }
    }
}
