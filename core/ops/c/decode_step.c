/* One decoding step of a model: the forward pass of core/model for a few tokens, in one call.
   Weights of linear layers are float32, bfloat16, float16 or int8, keys and values float32 or
   bfloat16; all else is float32, but for the other factor of a product by tiles, which is bfloat16
   too.

   core/decode/native_slots.py calls `step` through ctypes, and `lanes` and `panel` to lay out
   weights and caches; core/ops/native_library.py compiles this file.

   Each token has a position in a sequence. Its keys and values are appended to that sequence's part
   of the cache, and it attends to all positions of the sequence up to its own; recurrent layers
   keep a state of each sequence, convolutions their inputs. The logits of a
   token depend on its sequence alone, to the last bit: every sum has a fixed order, whatever tokens
   are in the same call and however many threads there are.

   Sequences may share a prefix: several that continue one prompt read its keys and values from one
   place, many queries at a time (`attend_to_prefix`). `sample_within` draws an id of each row of
   logits.

   `step` opens one parallel region. All its threads call the functions that have an `omp for` loop;
   the loop divides the work among them and ends with a barrier.

   Shapes:
   weights   (panels, inputs, PANEL_WIDTH), outputs padded with zeros to whole panels; of a product
             by tiles as tiles.h packs the right operand, both sizes padded to MACRO_TILE;
   keys      (sequences, kv_heads, positions / LANES, head_width, LANES), so that a vector holds one
             element of LANES keys;
   values    (sequences, kv_heads, positions, value_width), head_width padded to a multiple of
             VALUE_TILE_WIDTH;
   prefix_keys, prefix_values  the same of prefixes, in the place of sequences;
   states    (sequences, 2, state_width), h and for an LSTM c, width padded to a multiple of LANES;
   inputs    (sequences, positions, width), of a convolution;
   buffers   (tokens, buffer_stride), padded so that whole vectors and panels can be written. */

#include "tiles.h"

#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#endif

enum { PANEL_WIDTH = VECTORS_PER_PANEL * LANES }; /* outputs of a panel of a weight */
enum { VALUE_TILE_WIDTH = 2 * LANES };            /* elements of values that are summed at a time */

/* ---- the model ------------------------------------------------------------------------------ */

/* The dtype of a weight in bfloat16 that is packed for tiles. */
enum { TILED = INT8 + 1 };

/* native_model.LinearStruct. output_scale: of each output, for int8 weights. output_scale and bias are
   padded to whole panels; each may be null. */
typedef struct {
    int32_t inputs, outputs, dtype;
    const void *weight;
    const float *output_scale, *bias;
} Linear;

/* Numbered as NORMS, FFNS and MIXERS of native_model.py. */
enum { NO_NORM, RMSNORM, LAYERNORM };
enum { RELU, GELU, RELU2, GLU, BILINEAR, REGLU, GEGLU, SWIGLU, NO_FFN };
enum { ATTENTION, RNN, GRU, LSTM, CONV };

/* The structures have the layouts of NormStruct, BlockStruct, ModelStruct and
   TokensStruct of native_model.py. */

typedef struct { /* (width,), each may be null */
    const float *weight, *bias;
} Norm;

typedef struct {
    int32_t mixer, dilation;
    Norm mixer_norm, mixer_out_norm, ffn_norm, ffn_out_norm;
    /* in: the queries, keys and values of attention; the gates of a recurrent layer, of its input;
       value and gate of a convolution, of its taps. out: the mixer's output; the gates of a
       recurrent layer, of its state. A gated feed-forward: `up` has outputs (2, hidden), gate and
       value. */
    Linear in, out, up, down;
    char *keys, *values; /* this layer's cache; in keys the states, or a convolution's inputs */
    const char *prefix_keys, *prefix_values; /* may be null */
} Block;

typedef struct {
    int32_t layers, width, query_heads, kv_heads, head_width, value_width, hidden, state_width;
    int32_t cache_positions;  /* of a sequence, a multiple of LANES */
    int32_t prefix_positions; /* of a prefix, a multiple of LANES; 0 without prefixes */
    int32_t cache_dtype;      /* of keys and values of attention */
    int32_t norm_kind, pre_norm, sandwich, residual, ffn_kind, qk_norm, window, kernel;
    int32_t buffer_stride, logits_stride;
    float eps, softcap, embedding_scale;
    const float *embedding; /* (vocab, width) */
    const float *slopes;    /* (query_heads,) of linear biases; may be null */
    Norm final_norm;
    Linear lm_head;
    Block *blocks;
    /* Buffers for the most tokens of a call. projected: QKV, then the feed-forward's hidden layer.
       gates: of recurrent states, or the taps of a convolution. scores: (threads, MAX_QUERIES,
       prefix_positions + cache_positions).
       rounded: the left operand of a product by tiles, bfloat16, with MACRO_TILE more rows. */
    float *stream, *normed, *projected, *gates, *scores;
    uint16_t *rounded;
} Model;

/* The tokens of a call; those of one sequence are in order of position. */
typedef struct {
    int32_t count, logits_count; /* logits are computed for the last logits_count tokens */
    /* Of each token: its id, its sequence, its position in the cache, and its row of the three
       tables below. */
    const int64_t *ids, *sequences, *positions, *table_rows;
    /* With prefixes: the prefix of each token, and the positions of each prefix, a multiple of LANES
       that may be 0. A position in the cache of the sequence counts from the end of its prefix.
       The tokens of one prefix stand together, and are `times`; 0: no prefixes. */
    const int64_t *prefixes, *prefix_lengths;
    const float *additions; /* to the embeddings: (prefixes, width); may be null */
    int64_t times;
    /* Each may be null. cos, sin: (rows, head_width), by rotary_angles of core/model/layers.py;
       position_embedding: (rows, width). */
    const float *cos, *sin, *position_embedding;
    float *logits; /* (logits_count, logits_stride) */
} Tokens;

static inline int bytes_of(int dtype) { return dtype == FLOAT32 ? 4 : dtype == INT8 ? 1 : 2; }

int lanes(void) { return LANES; }
int panel(void) { return PANEL_WIDTH; }

/* ---- matrix products of a few tokens -------------------------------------------------------- */

/* `tokens` (a constant) rows of x times one panel of the weight. */
static inline __attribute__((always_inline)) void multiply_tile(
    const Linear *linear, int dtype, int tokens, int panel, const float *x, int x_stride, float *y,
    int y_stride, int accumulate) {
    const int vector_bytes = bytes_of(dtype) * LANES;
    const int inputs = linear->inputs;
    const char *weight =
        (const char *)linear->weight + (int64_t)panel * inputs * VECTORS_PER_PANEL * vector_bytes;
    vec_f32 total[MAX_TILE_TOKENS][VECTORS_PER_PANEL];
    memset(total, 0, sizeof total);
    for (int i = 0; i < inputs; i++, weight += VECTORS_PER_PANEL * vector_bytes) {
        vec_f32 w[VECTORS_PER_PANEL];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS_PER_PANEL; v++)
            w[v] = load_as_float32(weight + v * vector_bytes, dtype);
#pragma GCC unroll 6
        for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS_PER_PANEL; v++)
                total[t][v] += w[v] * x[(int64_t)t * x_stride + i];
    }
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS_PER_PANEL; v++) {
            const int first_output = panel * PANEL_WIDTH + v * LANES;
            float *out = y + (int64_t)t * y_stride + first_output;
            vec_f32 value = total[t][v];
            if (linear->output_scale) value *= load_vector(linear->output_scale + first_output);
            if (linear->bias) value += load_vector(linear->bias + first_output);
            store_vector(out, accumulate ? load_vector(out) + value : value);
        }
}

/* multiply_linear with a TILED weight. Rows of x beyond the last token are what was there before:
   their products are dropped. */
static void multiply_by_tiles(const Model *m, const Linear *linear, int tokens, const float *x,
                              int x_stride, float *y, int y_stride, int add) {
#ifdef HAS_TILES
    const int inputs = pad_to_macro_tile(linear->inputs);
#pragma omp for schedule(static)
    for (int t = 0; t < tokens; t++) {
        const float *from = x + (int64_t)t * x_stride;
        bf16 *to = m->rounded + (int64_t)t * inputs;
        for (int i = 0; i < inputs; i += LANES) {
            const int left = linear->inputs - i;
            const __mmask16 mask = left >= LANES ? 0xffff : left > 0 ? (1 << left) - 1 : 0;
            _mm256_storeu_si256((void *)(to + i),
                                (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, from + i)));
        }
    }
#pragma omp for schedule(static)
    for (int n = 0; n < linear->outputs; n += MACRO_TILE)
        for (int first = 0; first < tokens; first += MACRO_TILE) {
            float product[MACRO_TILE * MACRO_TILE] __attribute__((aligned(64)));
            multiply_macro_tile(inputs, m->rounded + (int64_t)first * inputs, inputs,
                                linear->weight, n, product, MACRO_TILE);
            for (int t = 0; t < MACRO_TILE && first + t < tokens; t++)
                for (int i = 0; i < MACRO_TILE; i += LANES) {
                    float *out = y + (int64_t)(first + t) * y_stride + n + i;
                    vec_f32 value = load_vector(product + MACRO_TILE * t + i);
                    if (linear->bias) value += load_vector(linear->bias + n + i);
                    store_vector(out, add ? load_vector(out) + value : value);
                }
        }
#endif
}

/* y (tokens, outputs) = x (tokens, inputs) times the weight, scaled, plus the bias; += if
   `accumulate`. Threads divide the panels. A tile has MAX_TILE_TOKENS, 2 or 1 tokens; a product is
   summed in the order of its inputs in each. */
static void multiply_linear(const Model *m, const Linear *linear, int tokens, const float *x,
                            int x_stride, float *y, int y_stride, int accumulate) {
    if (linear->dtype == TILED) {
        multiply_by_tiles(m, linear, tokens, x, x_stride, y, y_stride, accumulate);
        return;
    }
    const int panels = (linear->outputs + PANEL_WIDTH - 1) / PANEL_WIDTH;
#define TILES_OF(DTYPE, TOKENS)                                                      \
    for (; tokens - t >= TOKENS; t += TOKENS)                                        \
    multiply_tile(linear, DTYPE, TOKENS, panel, x + (int64_t)t * x_stride, x_stride, \
                  y + (int64_t)t * y_stride, y_stride, accumulate)
#define ALL_TILES(DTYPE)              \
    TILES_OF(DTYPE, MAX_TILE_TOKENS); \
    TILES_OF(DTYPE, 2);               \
    TILES_OF(DTYPE, 1)
#pragma omp for schedule(static)
    for (int panel = 0; panel < panels; panel++) {
        int t = 0;
        if (linear->dtype == FLOAT32) { ALL_TILES(FLOAT32); }
        if (linear->dtype == BFLOAT16) { ALL_TILES(BFLOAT16); }
        if (linear->dtype == FLOAT16) { ALL_TILES(FLOAT16); }
        if (linear->dtype == INT8) { ALL_TILES(INT8); }
    }
}

/* ---- norms, attention and activations ------------------------------------------------------- */

/* y = the norm of each of `tokens` rows of x; y may be x. LayerNorm subtracts the mean; RMSNorm
   does not; NO_NORM copies x. */
static void normalise(const Model *m, const Norm *norm, int tokens, const float *x, float *y) {
    const int width = m->width;
#pragma omp for schedule(static)
    for (int t = 0; t < tokens; t++) {
        const float *from = x + (int64_t)t * m->buffer_stride;
        float *to = y + (int64_t)t * m->buffer_stride;
        float mean = 0, sum_of_squares = 0;
        if (m->norm_kind == LAYERNORM) {
#pragma omp simd reduction(+ : mean)
            for (int i = 0; i < width; i++) mean += from[i];
            mean /= width;
        }
#pragma omp simd reduction(+ : sum_of_squares)
        for (int i = 0; i < width; i++) sum_of_squares += (from[i] - mean) * (from[i] - mean);
        const float scale =
            m->norm_kind == NO_NORM ? 1 : 1 / sqrtf(sum_of_squares / width + m->eps);
#pragma omp simd
        for (int i = 0; i < width; i++) {
            to[i] = (from[i] - mean) * scale;
            if (norm->weight) to[i] *= norm->weight[i];
            if (norm->bias) to[i] += norm->bias[i];
        }
    }
}

/* A query's or key's head x (head_width,), in place: RMSNorm without a weight where qk_norm is set,
   then the rotary embedding of its position where cos is given. Element i makes a pair with
   element i + head_width / 2; sin has the sign of each half. */
static void normalise_and_rotate(const Model *m, float *x, const float *cos, const float *sin) {
    const int width = m->head_width, half = width / 2;
    if (m->qk_norm) {
        float sum_of_squares = 0;
#pragma omp simd reduction(+ : sum_of_squares)
        for (int i = 0; i < width; i++) sum_of_squares += x[i] * x[i];
        const float scale = 1 / sqrtf(sum_of_squares / width + m->eps);
#pragma omp simd
        for (int i = 0; i < width; i++) x[i] *= scale;
    }
    if (cos) {
#pragma omp simd
        for (int i = 0; i < half; i++) {
            const float a = x[i], b = x[i + half];
            x[i] = a * cos[i] + b * sin[i];
            x[i + half] = b * cos[i + half] + a * sin[i + half];
        }
    }
}

/* Normalises and rotates queries and keys in `projected`, and copies keys and values to the cache.
   An item is one query or key head of one token. */
static void append_to_cache(const Model *m, const Block *block, const Tokens *tokens) {
    const int width = m->head_width, heads = m->query_heads + m->kv_heads;
#pragma omp for schedule(static)
    for (int item = 0; item < tokens->count * heads; item++) {
        const int t = item / heads, head = item % heads, kv_head = head - m->query_heads;
        float *x = m->projected + (int64_t)t * m->buffer_stride + head * width;
        const int64_t table = tokens->table_rows[t] * width, position = tokens->positions[t];
        normalise_and_rotate(m, x, tokens->cos ? tokens->cos + table : 0,
                             tokens->cos ? tokens->sin + table : 0);
        if (kv_head < 0) continue;
        const int64_t first = (tokens->sequences[t] * m->kv_heads + kv_head) * m->cache_positions;
        const int64_t key = (first + position / LANES * LANES) * width + position % LANES;
        const int64_t value = (first + position) * m->value_width;
        const float *from = x + m->kv_heads * width;
        if (m->cache_dtype == FLOAT32) {
            for (int i = 0; i < width; i++) ((float *)block->keys)[key + i * LANES] = x[i];
            memcpy((float *)block->values + value, from, width * sizeof(float));
            continue;
        }
        for (int first_element = 0; first_element < width; first_element += LANES) {
            const int count = width - first_element < LANES ? width - first_element : LANES;
            const vec_u16 rounded = to_bfloat16(load_vector(x + first_element));
            const vec_u16 rounded_value = to_bfloat16(load_vector(from + first_element));
            uint16_t *to = (uint16_t *)block->keys + key + first_element * LANES;
            for (int i = 0; i < count; i++) to[i * LANES] = rounded[i];
            memcpy((uint16_t *)block->values + value + first_element, &rounded_value,
                   count * sizeof(uint16_t));
        }
    }
}

/* Softmax attention of one query (head_width,) over the positions up to `position` of its
   sequence, the last m->window of them if that is above 0; the result replaces the query. keys and
   values, of type dtype, are those of its head; slope: of its linear bias; scores: cache_positions
   floats of this thread. */
static inline __attribute__((always_inline)) void attend_head(
    const Model *m, int dtype, float *query, const char *keys, const char *values, int position,
    float slope, float *scores) {
    const int bytes = bytes_of(dtype), width = m->head_width, key_blocks = position / LANES + 1;
    const int seen = m->window > 0 && m->window <= position ? position - m->window + 1 : 0;
    const int first_block = seen / LANES;
    const float score_scale = 1 / sqrtf(width);
    vec_f32 lane_max = (vec_f32){0} - INFINITY;
    for (int b = first_block; b < key_blocks; b++) {
        vec_f32 score = {0};
        for (int i = 0; i < width; i++)
            score += load_as_float32(keys + (b * width + i) * LANES * bytes, dtype) * query[i];
        score *= score_scale;
        for (int i = 0; slope != 0 && i < LANES; i++)
            score[i] += slope * (b * LANES + i - position);
        for (int i = position % LANES + 1; b == key_blocks - 1 && i < LANES; i++)
            score[i] = -INFINITY;
        for (int i = 0; b == first_block && i < seen % LANES; i++) score[i] = -INFINITY;
        lane_max = select_lanes(score > lane_max, score, lane_max);
        store_vector(scores + b * LANES, score);
    }
    float max_score = lane_max[0];
    for (int i = 1; i < LANES; i++) max_score = lane_max[i] > max_score ? lane_max[i] : max_score;
    vec_f32 total = {0};
    for (int b = first_block; b < key_blocks; b++) {
        vec_f32 score = load_vector(scores + b * LANES), e = exp_vector(score - max_score);
        e = select_lanes(score == -INFINITY, (vec_f32){0}, e);
        total += e;
        store_vector(scores + b * LANES, e);
    }
    float exp_sum = 0;
    for (int i = 0; i < LANES; i++) exp_sum += total[i];
    for (int first = 0; first < width; first += VALUE_TILE_WIDTH) {
        vec_f32 low = {0}, high = {0};
        for (int64_t s = seen; s <= position; s++) {
            const char *value = values + (s * m->value_width + first) * bytes;
            low += load_as_float32(value, dtype) * scores[s];
            high += load_as_float32(value + LANES * bytes, dtype) * scores[s];
        }
        float output[VALUE_TILE_WIDTH];
        store_vector(output, low / exp_sum);
        store_vector(output + LANES, high / exp_sum);
        memcpy(query + first, output,
               (width - first < VALUE_TILE_WIDTH ? width - first : VALUE_TILE_WIDTH) *
                   sizeof(float));
    }
}

enum { MAX_QUERIES = 5 }; /* that read the same keys together */

/* As attend_head, of `queries` (a constant) queries that share a prefix of `prefix` positions (a
   multiple of LANES) and a kv head. own_keys, own_values: of each query; own: its number of
   positions there; what lies beyond, up to that of the others, must be finite. No windows and no
   slopes. scores: (queries, stride). The queries take turns: one alone would wait for each sum and
   each read. */
static inline __attribute__((always_inline)) void attend_tile(
    const Model *m, int dtype, int queries, float **query, const char *keys, const char *values,
    int prefix, const char **own_keys, const char **own_values, const int *own, float *scores,
    int stride) {
    const int bytes = bytes_of(dtype), width = m->head_width;
    const float score_scale = 1 / sqrtf(width);
    vec_i32 numbers;
    for (int i = 0; i < LANES; i++) numbers[i] = i;
    int last = 0;
    for (int q = 0; q < queries; q++) last = own[q] > last ? own[q] : last;
    vec_f32 lane_max[MAX_QUERIES];
    for (int q = 0; q < queries; q++) lane_max[q] = (vec_f32){0} - INFINITY;
    for (int b = 0; b < prefix / LANES; b++) {
        vec_f32 score[MAX_QUERIES];
        memset(score, 0, sizeof score);
        for (int i = 0; i < width; i++) {
            const vec_f32 key = load_as_float32(keys + (b * width + i) * LANES * bytes, dtype);
#pragma GCC unroll 5
            for (int q = 0; q < queries; q++) score[q] += key * query[q][i];
        }
#pragma GCC unroll 5
        for (int q = 0; q < queries; q++) {
            score[q] *= score_scale;
            lane_max[q] = select_lanes(score[q] > lane_max[q], score[q], lane_max[q]);
            store_vector(scores + q * stride + b * LANES, score[q]);
        }
    }
    const int blocks = (last + LANES - 1) / LANES;
    for (int b = 0; b < blocks; b++) {
        vec_f32 score[MAX_QUERIES];
        memset(score, 0, sizeof score);
        for (int i = 0; i < width; i++)
#pragma GCC unroll 5
            for (int q = 0; q < queries; q++)
                score[q] += load_as_float32(own_keys[q] + (b * width + i) * LANES * bytes, dtype) *
                            query[q][i];
        for (int q = 0; q < queries; q++) {
            const vec_i32 beyond = numbers - (own[q] - b * LANES) >= 0;
            score[q] = select_lanes(beyond, (vec_f32){0} - INFINITY, score[q] * score_scale);
            lane_max[q] = select_lanes(score[q] > lane_max[q], score[q], lane_max[q]);
            store_vector(scores + q * stride + prefix + b * LANES, score[q]);
        }
    }
    float exp_sum[MAX_QUERIES];
    for (int q = 0; q < queries; q++) {
        float *row = scores + q * stride;
        float max_score = lane_max[q][0];
        for (int i = 1; i < LANES; i++)
            max_score = lane_max[q][i] > max_score ? lane_max[q][i] : max_score;
        vec_f32 total = {0};
        for (int b = 0; b < prefix / LANES + blocks; b++) {
            vec_f32 score = load_vector(row + b * LANES), e = exp_vector(score - max_score);
            e = select_lanes(score == -INFINITY, (vec_f32){0}, e);
            total += e;
            store_vector(row + b * LANES, e);
        }
        exp_sum[q] = 0;
        for (int i = 0; i < LANES; i++) exp_sum[q] += total[i];
    }
    for (int first = 0; first < width; first += VALUE_TILE_WIDTH) {
        vec_f32 low[MAX_QUERIES], high[MAX_QUERIES];
        memset(low, 0, sizeof low);
        memset(high, 0, sizeof high);
        for (int s = 0; s < prefix; s++) {
            const char *value = values + ((int64_t)s * m->value_width + first) * bytes;
            const vec_f32 a = load_as_float32(value, dtype);
            const vec_f32 b = load_as_float32(value + LANES * bytes, dtype);
#pragma GCC unroll 5
            for (int q = 0; q < queries; q++) {
                low[q] += a * scores[q * stride + s];
                high[q] += b * scores[q * stride + s];
            }
        }
        for (int s = 0; s < last; s++)
#pragma GCC unroll 5
            for (int q = 0; q < queries; q++) { /* a score beyond the query's own is 0 */
                const char *value = own_values[q] + ((int64_t)s * m->value_width + first) * bytes;
                const float score = scores[q * stride + prefix + s];
                low[q] += load_as_float32(value, dtype) * score;
                high[q] += load_as_float32(value + LANES * bytes, dtype) * score;
            }
        for (int q = 0; q < queries; q++) {
            float output[VALUE_TILE_WIDTH];
            store_vector(output, low[q] / exp_sum[q]);
            store_vector(output + LANES, high[q] / exp_sum[q]);
            memcpy(query[q] + first, output,
                   (width - first < VALUE_TILE_WIDTH ? width - first : VALUE_TILE_WIDTH) *
                       sizeof(float));
        }
    }
}

/* attend_tile of MAX_QUERIES queries or of one, for the type of the cache. Not inlined: compiling it
   takes long. */
static __attribute__((noinline)) void attend_queries(
    const Model *m, int queries, float **query, const char *keys, const char *values, int prefix,
    const char **own_keys, const char **own_values, const int *own, float *scores, int stride) {
#define OF(DTYPE, QUERIES)                                                                         \
    if (m->cache_dtype == DTYPE && queries == QUERIES)                                             \
    attend_tile(m, DTYPE, QUERIES, query, keys, values, prefix, own_keys, own_values, own, scores, \
                stride)
    OF(FLOAT32, MAX_QUERIES);
    OF(FLOAT32, 1);
    OF(BFLOAT16, MAX_QUERIES);
    OF(BFLOAT16, 1);
#undef OF
}

/* `attend` of tokens with prefixes. An item is a kv head of the tokens of one prefix, of which
   `times` stand together. */
static void attend_to_prefix(const Model *m, const Block *block, const Tokens *tokens,
                             float *scores) {
    const int width = m->head_width, each = m->query_heads / m->kv_heads;
    const int bytes = bytes_of(m->cache_dtype);
    const int stride = m->prefix_positions + m->cache_positions, times = tokens->times;
#pragma omp for schedule(static)
    for (int item = 0; item < tokens->count / times * m->kv_heads; item++) {
        const int first = item / m->kv_heads * times, head = item % m->kv_heads;
        const int64_t prefix = tokens->prefixes[first];
        const int64_t at = (prefix * m->kv_heads + head) * m->prefix_positions;
        const char *keys = block->prefix_keys + at * width * bytes;
        const char *values = block->prefix_values + at * m->value_width * bytes;
        float *query[MAX_QUERIES];
        const char *own_keys[MAX_QUERIES], *own_values[MAX_QUERIES];
        int own[MAX_QUERIES];
        for (int done = 0, count; done < times * each; done += count) {
            count = times * each - done < MAX_QUERIES ? times * each - done : MAX_QUERIES;
            for (int q = 0; q < count; q++) {
                const int t = first + (done + q) / each;
                const int64_t cache =
                    (tokens->sequences[t] * m->kv_heads + head) * m->cache_positions;
                query[q] = m->projected + (int64_t)t * m->buffer_stride +
                           (head * each + (done + q) % each) * width;
                own_keys[q] = block->keys + cache * width * bytes;
                own_values[q] = block->values + cache * m->value_width * bytes;
                own[q] = (int)tokens->positions[t] + 1;
            }
            const int length = (int)tokens->prefix_lengths[prefix];
            if (count == MAX_QUERIES)
                attend_queries(m, MAX_QUERIES, query, keys, values, length, own_keys, own_values,
                               own, scores, stride);
            else
                for (int q = 0; q < count; q++)
                    attend_queries(m, 1, query + q, keys, values, length, own_keys + q,
                                   own_values + q, own + q, scores, stride);
        }
    }
}

/* Whether MAX_QUERIES tokens from the t-th on follow each other in one sequence, and see all of it
   up to themselves. */
static int is_run(const Model *m, const Tokens *tokens, int t) {
    if (m->window > 0 || m->slopes || tokens->count - t < MAX_QUERIES) return 0;
    for (int q = 1; q < MAX_QUERIES; q++)
        if (tokens->sequences[t + q] != tokens->sequences[t] ||
            tokens->positions[t + q] != tokens->positions[t] + q)
            return 0;
    return 1;
}

/* The queries in `projected` become the attention's outputs. An item is one query head of
   MAX_QUERIES tokens; query_heads / kv_heads consecutive query heads share a key-value head. Tokens
   of a run share the whole vectors of keys before the first of them, as a prefix. */
static void attend(const Model *m, const Block *block, const Tokens *tokens, float *scores) {
    const int width = m->head_width, bytes = bytes_of(m->cache_dtype);
    const int groups = (tokens->count + MAX_QUERIES - 1) / MAX_QUERIES;
#pragma omp for schedule(static)
    for (int item = 0; item < groups * m->query_heads; item++) {
        const int first = item / m->query_heads * MAX_QUERIES, head = item % m->query_heads;
        const int kv_head = head / (m->query_heads / m->kv_heads);
        const int run = is_run(m, tokens, first);
        const int shared = run ? tokens->positions[first] / LANES * LANES : 0;
        float *query[MAX_QUERIES];
        const char *keys[MAX_QUERIES], *values[MAX_QUERIES];
        int own[MAX_QUERIES];
        for (int q = 0; q < MAX_QUERIES && first + q < tokens->count; q++) {
            const int t = first + q;
            const int64_t cache =
                (tokens->sequences[t] * m->kv_heads + kv_head) * m->cache_positions + shared;
            query[q] = m->projected + (int64_t)t * m->buffer_stride + head * width;
            keys[q] = block->keys + cache * width * bytes;
            values[q] = block->values + cache * m->value_width * bytes;
            own[q] = (int)tokens->positions[t] + 1 - shared;
            const float slope = m->slopes ? m->slopes[head] : 0;
            if (!run && m->cache_dtype == FLOAT32)
                attend_head(m, FLOAT32, query[q], keys[q], values[q], own[q] - 1, slope, scores);
            if (!run && m->cache_dtype == BFLOAT16)
                attend_head(m, BFLOAT16, query[q], keys[q], values[q], own[q] - 1, slope, scores);
        }
        if (run)
            attend_queries(m, MAX_QUERIES, query, keys[0] - (int64_t)shared * width * bytes,
                           values[0] - (int64_t)shared * m->value_width * bytes, shared, keys,
                           values, own, scores, m->cache_positions);
    }
}

/* ---- recurrent layers and convolutions ------------------------------------------------------ */

static vec_f32 tanh_vector(vec_f32 x) { return 2.0f * sigmoid_vector(2.0f * x) - 1.0f; }

/* The next state of one token's sequence, from the gates of its input and of its state, of which
   each has m->width numbers; the new h replaces x. */
static void next_state(const Model *m, int mixer, const float *in, const float *own, float *state,
                       float *x) {
    const int width = m->width;
    float *h = state, *c = state + m->state_width;
    for (int i = 0; i < width; i += LANES) { /* the buffers' padding takes the last vector */
#define GATE(n) (load_vector(in + (n) * width + i) + load_vector(own + (n) * width + i))
        vec_f32 new;
        if (mixer == RNN) {
            new = tanh_vector(GATE(0));
        } else if (mixer == GRU) { /* torch's order: reset, update, new */
            vec_f32 reset = sigmoid_vector(GATE(0)), update = sigmoid_vector(GATE(1));
            vec_f32 n = tanh_vector(load_vector(in + 2 * width + i) +
                                    reset * load_vector(own + 2 * width + i));
            new = n + update * (load_vector(h + i) - n);
        } else { /* torch's order: input, forget, cell, output */
            vec_f32 cell = sigmoid_vector(GATE(1)) * load_vector(c + i) +
                           sigmoid_vector(GATE(0)) * tanh_vector(GATE(2));
            store_vector(c + i, cell);
            new = sigmoid_vector(GATE(3)) * tanh_vector(cell);
        }
#undef GATE
        store_vector(h + i, new);
        store_vector(x + i, new);
    }
}

/* The inputs in `normed` become the outputs of a recurrent layer. Tokens of different sequences are
   advanced together, those of one sequence (of a prompt) one after the other. */
static void recur(const Model *m, const Block *b, const Tokens *tokens) {
    const int stride = m->buffer_stride, count = tokens->count;
    const int step = count > 1 && tokens->sequences[0] == tokens->sequences[1] ? 1 : count;
    multiply_linear(m, &b->in, count, m->normed, stride, m->projected, stride, 0);
    for (int first = 0; first < count; first += step) {
        float *x = m->normed + (int64_t)first * stride, *own = m->gates + (int64_t)first * stride;
#pragma omp for schedule(static)
        for (int t = first; t < first + step; t++)
            memcpy(m->normed + (int64_t)t * stride,
                   (float *)b->keys + tokens->sequences[t] * 2 * m->state_width,
                   m->width * sizeof(float));
        multiply_linear(m, &b->out, step, x, stride, own, stride, 0);
#pragma omp for schedule(static)
        for (int t = first; t < first + step; t++)
            next_state(m, b->mixer, m->projected + (int64_t)t * stride,
                       m->gates + (int64_t)t * stride,
                       (float *)b->keys + tokens->sequences[t] * 2 * m->state_width,
                       m->normed + (int64_t)t * stride);
    }
}

/* The value and the gate of a dilated convolution over the inputs in `normed`: their product is
   left in `projected`. */
static void convolve(const Model *m, const Block *b, const Tokens *tokens) {
    const int stride = m->buffer_stride, width = m->width;
#pragma omp for schedule(static)
    for (int t = 0; t < tokens->count; t++)
        memcpy((float *)b->keys +
                   (tokens->sequences[t] * m->cache_positions + tokens->positions[t]) * width,
               m->normed + (int64_t)t * stride, width * sizeof(float));
#pragma omp for schedule(static)
    for (int t = 0; t < tokens->count; t++)
        for (int tap = 0; tap < m->kernel; tap++) {
            const int64_t position = tokens->positions[t] - (int64_t)tap * b->dilation;
            float *to = m->gates + (int64_t)t * stride + tap * width;
            if (position < 0)
                memset(to, 0, width * sizeof(float));
            else
                memcpy(to,
                       (float *)b->keys +
                           (tokens->sequences[t] * m->cache_positions + position) * width,
                       width * sizeof(float));
        }
    multiply_linear(m, &b->in, tokens->count, m->gates, stride, m->projected, stride, 0);
#pragma omp for schedule(static)
    for (int t = 0; t < tokens->count; t++) {
        float *x = m->projected + (int64_t)t * stride;
        for (int i = 0; i < width; i += LANES) {
            vec_f32 gate = sigmoid_vector(load_vector(x + width + i));
            store_vector(m->normed + (int64_t)t * stride + i, tanh_vector(load_vector(x + i)) * gate);
        }
    }
}

/* ---- the feed-forward layer ----------------------------------------------------------------- */

/* The feed-forward's activation of `projected` (tokens, hidden), in place. */
static void activate(const Model *m, int tokens) {
    const int hidden = m->hidden;
#pragma omp for schedule(static)
    for (int t = 0; t < tokens; t++) {
        float *x = m->projected + (int64_t)t * m->buffer_stride;
        for (int i = 0; i < hidden; i += LANES) { /* the buffer's padding takes the last vector */
            vec_f32 a = load_vector(x + i), zero = {0};
            vec_f32 relu = select_lanes(a > zero, a, zero);
            const int kind = m->ffn_kind;
            if (kind == RELU || kind == REGLU) a = relu;
            if (kind == RELU2) a = relu * relu;
            /* GELU by tanh: 0.5 a (1 + tanh(u)) = a sigmoid(2u) with u = sqrt(2 / pi) (a + 0.044715
               a^3); 1.5957691216 is 2 sqrt(2 / pi). */
            if (kind == GELU || kind == GEGLU)
                a *= sigmoid_vector(1.5957691216f * (a + 0.044715f * a * a * a));
            if (kind == GLU) a = sigmoid_vector(a);
            if (kind == SWIGLU) a *= sigmoid_vector(a);
            if (kind >= GLU) a *= load_vector(x + hidden + i);
            store_vector(x + i, a);
        }
    }
}

/* ---- the step ------------------------------------------------------------------------------- */

static void embed(const Model *m, const Tokens *tokens) {
#pragma omp for schedule(static)
    for (int t = 0; t < tokens->count; t++) {
        const float *from = m->embedding + tokens->ids[t] * m->width;
        const float *position = tokens->position_embedding
                                    ? tokens->position_embedding + tokens->table_rows[t] * m->width
                                    : 0;
        float *x = m->stream + (int64_t)t * m->buffer_stride;
        const float *addition =
            tokens->additions ? tokens->additions + tokens->prefixes[t] * m->width : 0;
        for (int i = 0; i < m->width; i++)
            x[i] = (from[i] + (addition ? addition[i] : 0)) * m->embedding_scale +
                   (position ? position[i] : 0);
    }
}

/* normed = the stream, normalised with pre_norm. */
static void read_stream(const Model *m, const Norm *norm, int count) {
    const Model copying = {.width = m->width, .buffer_stride = m->buffer_stride};
    const Norm none = {0, 0};
    normalise(m->pre_norm ? m : &copying, m->pre_norm ? norm : &none, count, m->stream, m->normed);
}

/* A layer's output is added to the stream, or replaces it. */
static void add_to_stream(const Model *m, int count, const float *y) {
#pragma omp for schedule(static)
    for (int t = 0; t < count; t++) {
        float *x = m->stream + (int64_t)t * m->buffer_stride;
        const float *from = y + (int64_t)t * m->buffer_stride;
        for (int i = 0; i < m->width; i++) x[i] = m->residual ? x[i] + from[i] : from[i];
    }
}

/* The product of `from` with a layer's last weight goes into the stream: normalised before it is
   added with `sandwich`, after it without pre_norm. */
static void write_stream(const Model *m, const Linear *linear, const Norm *norm,
                         const Norm *out_norm, int count, const float *from) {
    const int stride = m->buffer_stride;
    if (m->residual && !m->sandwich) {
        multiply_linear(m, linear, count, from, stride, m->stream, stride, 1);
    } else { /* `gates` is free here */
        multiply_linear(m, linear, count, from, stride, m->gates, stride, 0);
        if (m->sandwich) normalise(m, out_norm, count, m->gates, m->gates);
        add_to_stream(m, count, m->gates);
    }
    if (!m->pre_norm) normalise(m, norm, count, m->stream, m->stream);
}

/* The mixer, then the feed-forward, each added to the stream. */
static void run_block(const Model *m, const Block *b, const Tokens *tokens, float *scores) {
    const int count = tokens->count, stride = m->buffer_stride;
    read_stream(m, &b->mixer_norm, count);
    if (b->mixer == ATTENTION) {
        multiply_linear(m, &b->in, count, m->normed, stride, m->projected, stride, 0);
        append_to_cache(m, b, tokens);
        if (tokens->times)
            attend_to_prefix(m, b, tokens, scores);
        else
            attend(m, b, tokens, scores);
        write_stream(m, &b->out, &b->mixer_norm, &b->mixer_out_norm, count, m->projected);
    } else if (b->mixer == CONV) {
        convolve(m, b, tokens);
        write_stream(m, &b->out, &b->mixer_norm, &b->mixer_out_norm, count, m->normed);
    } else {
        recur(m, b, tokens);
        if (m->sandwich) normalise(m, &b->mixer_out_norm, count, m->normed, m->normed);
        add_to_stream(m, count, m->normed);
        if (!m->pre_norm) normalise(m, &b->mixer_norm, count, m->stream, m->stream);
    }
    if (m->ffn_kind == NO_FFN) return;
    read_stream(m, &b->ffn_norm, count);
    multiply_linear(m, &b->up, count, m->normed, stride, m->projected, stride, 0);
    activate(m, count);
    write_stream(m, &b->down, &b->ffn_norm, &b->ffn_out_norm, count, m->projected);
}

/* Appends all tokens to the cache and writes the logits of the last logits_count of them. softcap >
   0: logits become softcap * tanh(logit / softcap). */
void step(const Model *m, const Tokens *tokens, int threads) {
    const int logits_count = tokens->logits_count;
    (void)threads;
#pragma omp parallel num_threads(threads)
    {
        const int64_t positions = m->prefix_positions + m->cache_positions;
        float *scores = m->scores + omp_get_thread_num() * positions * MAX_QUERIES;
#ifdef HAS_TILES
        if (m->lm_head.dtype == TILED) configure_tiles();
#endif
        embed(m, tokens);
        for (int layer = 0; layer < m->layers; layer++)
            run_block(m, m->blocks + layer, tokens, scores);
        const int64_t first = (int64_t)(tokens->count - logits_count) * m->buffer_stride;
        float *last = m->stream + first;
        if (m->pre_norm) {
            normalise(m, &m->final_norm, logits_count, last, m->normed + first);
            last = m->normed + first;
        }
        multiply_linear(m, &m->lm_head, logits_count, last, m->buffer_stride, tokens->logits,
                        m->logits_stride, 0);
        if (m->softcap > 0) {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < (int64_t)logits_count * m->logits_stride; i++)
                tokens->logits[i] = m->softcap * tanhf(tokens->logits[i] / m->softcap);
        }
#ifdef HAS_TILES
        if (m->lm_head.dtype == TILED) _tile_release();
#endif
    }
}

/* ---- sampling ------------------------------------------------------------------------------- */

enum { CHUNK = 8 }; /* vectors that are summed together */

/* An id of each of `rows` rows of logits by inverse transform, and where its uniform number lies
   within the id's probability, 0 to 1: `sample_ids_and_fractions` of core/decode/sampling.py.
   low, high: the half-open range of legal ids of each row; uniforms: in [0, 1); buffer: (threads,
   stride + CHUNK * LANES). Sums are float32 over a chunk, then float64. */
void sample_within(int rows, const float *logits, int stride, const int64_t *low,
                   const int64_t *high, const double *uniforms, float temperature, int64_t *ids,
                   double *within, float *buffer, int threads) {
    (void)threads;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int row = 0; row < rows; row++) {
        float *p = buffer + (int64_t)omp_get_thread_num() * (stride + CHUNK * LANES);
        const int count = (int)(high[row] - low[row]), chunk = CHUNK * LANES;
        const int chunks = (count + chunk - 1) / chunk;
        memcpy(p, logits + (int64_t)row * stride + low[row], count * sizeof(float));
        for (int i = count; i < chunks * chunk; i++) p[i] = -INFINITY;
        vec_f32 lane_max = load_vector(p);
        for (int i = LANES; i < count; i += LANES) {
            const vec_f32 x = load_vector(p + i);
            lane_max = select_lanes(x > lane_max, x, lane_max);
        }
        float max = lane_max[0];
        for (int i = 1; i < LANES; i++) max = lane_max[i] > max ? lane_max[i] : max;
        double total = 0, below = 0;
        for (int c = 0; c < chunks; c++) {
            vec_f32 sum = {0};
            for (int i = c * chunk; i < (c + 1) * chunk; i += LANES) {
                const vec_f32 x = (load_vector(p + i) - max) / temperature;
                const vec_f32 e = select_lanes(x < -87.0f, (vec_f32){0}, exp_vector(x));
                store_vector(p + i, e);
                sum += e;
            }
            for (int i = 0; i < LANES; i++) total += sum[i];
        }
        const double threshold = uniforms[row] * total;
        int at = 0;
        for (int c = 0; c < chunks; c++) { /* to the chunk, then to the id */
            vec_f32 sum = {0};
            double size = 0;
            for (int i = c * chunk; i < (c + 1) * chunk; i += LANES) sum += load_vector(p + i);
            for (int i = 0; i < LANES; i++) size += sum[i];
            if (below + size <= threshold && c + 1 < chunks) {
                below += size;
                continue;
            }
            int last = -1;
            for (at = c * chunk; at < (c + 1) * chunk; at++) {
                if (p[at] == 0) continue;
                last = at;
                if (below + p[at] > threshold) break;
                below += p[at];
            }
            if (at == (c + 1) * chunk) { /* rounded up to the end of the chunk */
                for (at = last < 0 ? c * chunk - 1 : last; p[at] == 0; at--) {}
                below = threshold - p[at];
            }
            break;
        }
        ids[row] = low[row] + at;
        within[row] = fmin(1, fmax(0, (threshold - below) / p[at]));
    }
}
