/* One step of a transformer for a few tokens: what model.py says, in one call.

   Each token stands at a position of a row; its keys and values go into that row's cache, and it
   sees what the row holds up to itself. A result is a function of its row alone, to the last bit:
   every sum has one order, whatever tokens are beside it and however many threads there are.

   Keys are (row, group, block, head_width, LANES), a block LANES positions; values (row,
   group, position, value_width), a multiple of PAIR. Buffers are (tokens, stride). */

#include "simd.h"

#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#endif

/* ---- products of a few tokens with a matrix -------------------------------------------------- */

/* Weights are (panels, inputs, PANEL), zeros beyond the last output. Every sum has one order, however
   many tokens there are: i counts up. */

typedef struct { /* scale: of each output (int8); scale and bias padded to whole panels, or none */
    int32_t inputs, outputs, kind;
    const void *weight;
    const float *scale, *bias;
} Linear;

/* `count` tokens (a constant) times one panel. */
static inline __attribute__((always_inline)) void tile(
    const Linear *linear, int kind, int count, int panel, const float *x, int stride, float *y,
    int columns, int add) {
    const int size = (kind == FLOAT32 ? 4 : kind == INT8 ? 1 : 2) * LANES, inputs = linear->inputs;
    const char *weight = (const char *)linear->weight + (int64_t)panel * inputs * VECTORS * size;
    vec total[MOST][VECTORS];
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
static void product(const Linear *linear, int count, const float *x, int stride, float *y,
                    int columns, int add) {
    const int panels = (linear->outputs + PANEL - 1) / PANEL;
#define TILE(KIND, COUNT)                                                                  \
    for (; count - t >= COUNT; t += COUNT)                                                 \
    tile(linear, KIND, COUNT, panel, x + (int64_t)t * stride, stride, y + (int64_t)t * columns, \
         columns, add)
#define TILES(KIND) TILE(KIND, MOST); TILE(KIND, 2); TILE(KIND, 1)
#pragma omp for schedule(static)
    for (int panel = 0; panel < panels; panel++) {
        int t = 0;
        if (linear->kind == FLOAT32) { TILES(FLOAT32); }
        if (linear->kind == BFLOAT16) { TILES(BFLOAT16); }
        if (linear->kind == FLOAT16) { TILES(FLOAT16); }
        if (linear->kind == INT8) { TILES(INT8); }
    }
}

/* ---- the model ------------------------------------------------------------------------------ */

enum { NO_NORM, RMSNORM, LAYERNORM };
enum { RELU, GELU, RELU2, SWIGLU };

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

/* ---- what is between products --------------------------------------------------------------- */

static void normalise(const Model *m, const Norm *norm, int count, const float *x, float *y) {
    const int width = m->width;
#pragma omp for schedule(static)
    for (int t = 0; t < count; t++) {
        const float *from = x + (int64_t)t * m->stride;
        float *to = y + (int64_t)t * m->stride;
        float mean = 0, square = 0;
        if (m->norm == LAYERNORM) {
#pragma omp simd reduction(+ : mean)
            for (int i = 0; i < width; i++) mean += from[i];
            mean /= width;
        }
#pragma omp simd reduction(+ : square)
        for (int i = 0; i < width; i++) square += (from[i] - mean) * (from[i] - mean);
        const float scale = m->norm == NO_NORM ? 1 : 1 / sqrtf(square / width + m->eps);
#pragma omp simd
        for (int i = 0; i < width; i++) {
            to[i] = (from[i] - mean) * scale;
            if (norm->weight) to[i] *= norm->weight[i];
            if (norm->bias) to[i] += norm->bias[i];
        }
    }
}

/* A query's or key's head: normalised, turned by its position (half-split pairs). */
static void turn(const Model *m, float *x, const float *cos, const float *sin) {
    const int width = m->head_width, half = width / 2;
    if (m->qk_norm) {
        float square = 0;
#pragma omp simd reduction(+ : square)
        for (int i = 0; i < width; i++) square += x[i] * x[i];
        const float scale = 1 / sqrtf(square / width + m->eps);
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
        float *scores = m->scores + (int64_t)omp_get_thread_num() * m->positions;
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
