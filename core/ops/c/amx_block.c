/* A transformer block in bfloat16 with AMX tiles, forward and backward, as one call each: pre-norm
   RMSNorm, attention, RMSNorm, squared ReLU feed-forward. Also the Newton-Schulz iteration of Muon.
   In a small model, calling torch for each operation takes longer than the operation.

   core/ops/amx_block.py calls `block` and `block_backward`, and core/ops/cpu_kernels.py calls
   `orthogonalise` and the functions for sizes, through ctypes (OF_TILES). Block.forward of
   core/model/sequence_model.py is the plain form. core/ops/native_library.py compiles this file. On
   a processor without AMX it has only `tiles`, which returns 0.

   Division of work. A batch is cut into chunks of sequences, of about CHUNK_TOKENS tokens. One
   thread takes a chunk through the whole block, so that intermediate results stay in its cache. In
   a block of up to MAX_PRIVATE_WEIGHTS weights, each thread sums the weight gradients of its own
   chunks, and these sums are added at the end. In a larger block, the gradients of all linear
   layers' outputs are kept, and all threads together compute the weight gradients afterwards.
   Results are the same to the last bit for the same number of threads.

   Padding. Widths are multiples of MACRO_TILE. Where a product sums over tokens, they are padded
   with zeros to such a multiple. Where tokens are rows of the result, rows after the last token are
   read but their results are dropped, so that buffers need room for up to MACRO_TILE more rows. */

#include "tiles.h"
#include "training_ops.h"

#ifdef HAS_TILES
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
static int omp_get_num_threads(void) { return 1; }
#endif

enum { CHUNK_TOKENS = 256 };             /* about as many tokens in a chunk */
enum { MAX_PRIVATE_WEIGHTS = 1 << 18 };  /* in a block, for gradient sums of each thread */

/* Whether the system lets this process use AMX: asks Linux for permission by arch_prctl. */
int tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    return !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA);
}

/* ---- workspace ------------------------------------------------------------------------------ */

static int64_t round_up_to_64(int64_t bytes) { return (bytes + 63) / 64 * 64; }

/* Takes room for `count` bf16 numbers off the start of the workspace. Callers that need 4-byte
   numbers ask for twice as many. */
static bf16 *allocate(char **workspace, int64_t count) {
    bf16 *p = (bf16 *)*workspace;
    *workspace += round_up_to_64(2 * count);
    return p;
}

/* ---- packing -------------------------------------------------------------------------------- */

/* Transposes 16 x 16 words. Strides are in words. */
static inline void transpose_16x16(const uint32_t *in, int64_t in_stride, uint32_t *out,
                                   int64_t out_stride) {
    __m512i r[16], t[16];
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(in + i * in_stride);
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
    for (int i = 0; i < 16; i++) _mm512_storeu_si512(out + i * out_stride, r[i]);
}

static inline __m256i round_16_floats(const float *p) {
    return (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(p));
}

/* 16 words: in each the bf16 number of `even` in the low half, that of `odd` in the high half. */
static inline __m512i interleave(__m256i even, __m256i odd) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(even),
                           _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

static inline __m256i load_16_bf16(const bf16 *p) { return _mm256_loadu_si256((const void *)p); }

static const bf16 ZEROS[16] = {0};

/* 16 numbers of a row of x, whose rows are row_stride apart; zeros beyond the last row. */
static inline const bf16 *row_or_zeros(const bf16 *x, int64_t row_stride, int row, int rows) {
    return row < rows ? x + row * row_stride : ZEROS;
}

/* Packs the panel of columns n ... n + TILE - 1 of x (rows, columns), rows padded with zeros. */
static inline void pack_panel(int rows, const bf16 *x, int64_t row_stride, int n, uint32_t *out) {
    const int inputs = pad_to_macro_tile(rows);
    out += (int64_t)n * (inputs / 2), x += n;
    for (int p = 0; p < inputs; p += 2)
        _mm512_storeu_si512(out + WORDS_PER_INPUT * p,
                            interleave(load_16_bf16(row_or_zeros(x, row_stride, p, rows)),
                                       load_16_bf16(row_or_zeros(x, row_stride, p + 1, rows))));
}

/* Packs the panel of columns n ... n + TILE - 1 of the transpose of x (columns, inputs). */
static inline void pack_transposed_panel(int inputs, const bf16 *x, int64_t row_stride, int n,
                                         uint32_t *out) {
    for (int p = 0; p < inputs / 2; p += TILE)
        transpose_16x16((const uint32_t *)(x + n * row_stride) + p, row_stride / 2,
                        out + (int64_t)n * (inputs / 2) + TILE * p, TILE);
}

/* Packs a weight w (outputs, inputs) in float32 for the forward product, x w'. */
static void pack_weight_forward(int outputs, int inputs, const float *w, uint32_t *out,
                                int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) \
    if (outputs * inputs > MAX_SERIAL_ELEMENTS)
    for (int n = 0; n < outputs; n += TILE)
        for (int i = 0; i < inputs; i += TILE_INPUTS) {
            bf16 rows[TILE * TILE_INPUTS];
            for (int r = 0; r < TILE; r++) {
                const float *from = w + (int64_t)(n + r) * inputs + i;
                _mm256_storeu_si256((void *)(rows + TILE_INPUTS * r), round_16_floats(from));
                _mm256_storeu_si256((void *)(rows + TILE_INPUTS * r + 16),
                                    round_16_floats(from + 16));
            }
            transpose_16x16((uint32_t *)rows, TILE,
                            out + (int64_t)n * (inputs / 2) + WORDS_PER_INPUT * i, TILE);
        }
}

/* Packs it for the backward product, (gradient of the outputs) w. */
static void pack_weight_backward(int outputs, int inputs, const float *w, uint32_t *out,
                                 int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) \
    if (outputs * inputs > MAX_SERIAL_ELEMENTS)
    for (int n = 0; n < inputs; n += TILE)
        for (int p = 0; p < outputs / 2; p++) {
            const float *from = w + (int64_t)2 * p * inputs + n;
            _mm512_storeu_si512(out + (int64_t)n * (outputs / 2) + TILE * p,
                                interleave(round_16_floats(from), round_16_floats(from + inputs)));
        }
}

/* Writes rows m ... m + TILE - 1 of the transpose of x (rows, columns), row-major, out_stride
   apart; x's rows are padded with zeros. */
static inline void transpose_columns(int rows, const bf16 *x, int64_t row_stride, int m, bf16 *out,
                                     int64_t out_stride) {
    x += m;
    for (int k = 0; k < rows; k += TILE_INPUTS) {
        uint32_t block[TILE * TILE];
        for (int p = k; p < k + TILE_INPUTS; p += 2)
            _mm512_storeu_si512(block + WORDS_PER_INPUT * (p - k),
                                interleave(load_16_bf16(row_or_zeros(x, row_stride, p, rows)),
                                           load_16_bf16(row_or_zeros(x, row_stride, p + 1, rows))));
        transpose_16x16(block, TILE, (uint32_t *)(out + k), out_stride / 2);
    }
}

/* ---- matrix products ------------------------------------------------------------------------ */

static inline void store_bf16(bf16 *to, vec_f32 v) {
    _mm256_storeu_si256((void *)to, (__m256i)_mm512_cvtneps_pbh((__m512)v));
}

static inline vec_f32 load_bf16(const bf16 *from) {
    return load_as_float32((const char *)from, BFLOAT16);
}

/* What `matmul` does with each number v of a product, before v is rounded. */
typedef struct {
    enum {
        STORE,                 /* out = v */
        ADD_RESIDUAL,          /* sum = residual + dropout(v) */
        STORE_SQUARED_RELU,    /* out = v and squared_relu = relu(v)^2 */
        SQUARED_RELU_BACKWARD, /* out = v * 2 relu(relu_input) */
    } kind;
    bf16 *out;
    bf16 *squared_relu;
    const bf16 *relu_input;
    const float *residual;
    float *sum;
    const Dropout *dropout;
    int64_t first_element; /* the index for `dropout` of the product's first number in the batch */
} Epilogue;

/* Of LANES numbers of the product, from the i-th on. relu_input * zero keeps a NaN a NaN. */
ALWAYS_INLINE void apply_epilogue(const Epilogue *e, int64_t i, vec_f32 v) {
    const vec_f32 zero = {0};
    if (e->kind == ADD_RESIDUAL) {
        if (e->dropout->drop_threshold) v *= dropout_factors(e->dropout, e->first_element + i);
        store_vector(e->sum + i, load_vector(e->residual + i) + v);
        return;
    }
    if (e->kind == SQUARED_RELU_BACKWARD) {
        const vec_f32 relu_input = load_bf16(e->relu_input + i);
        v *= 2.0f * select_lanes(relu_input > zero, relu_input, relu_input * zero);
    }
    store_bf16(e->out + i, v);
    if (e->kind == STORE_SQUARED_RELU) {
        const vec_f32 relu_input = load_bf16(e->out + i);
        const vec_f32 relu = select_lanes(relu_input > zero, relu_input, relu_input * zero);
        store_bf16(e->squared_relu + i, relu * relu);
    }
}

/* a (rows, inputs) times the packed b (inputs, columns), by one thread. */
ALWAYS_INLINE void matmul(int rows, int columns, int inputs, const bf16 *a, const uint32_t *b,
                          const Epilogue *epilogue) {
    float c[MACRO_TILE * MACRO_TILE] __attribute__((aligned(64)));
    for (int m = 0; m < rows; m += MACRO_TILE)
        for (int n = 0; n < columns; n += MACRO_TILE) {
            multiply_macro_tile(inputs, a + (int64_t)m * inputs, inputs, b, n, c, MACRO_TILE);
            for (int r = 0; r < MACRO_TILE && m + r < rows; r++)
                for (int i = 0; i < MACRO_TILE; i += LANES)
                    apply_epilogue(epilogue, (int64_t)(m + r) * columns + n + i,
                                   load_vector(c + MACRO_TILE * r + i));
        }
}

/* ---- weight gradients ----------------------------------------------------------------------- */

/* relu(x)^2 of 16 numbers. A NaN becomes 0 here. */
static inline __m256i squared_relu_16(const bf16 *p) {
    const __m512 v = _mm512_max_ps((__m512)load_bf16(p), _mm512_setzero_ps());
    return (__m256i)_mm512_cvtneps_pbh(v * v);
}

/* pack_panel of relu(x)^2. */
static inline void pack_squared_relu_panel(int rows, const bf16 *x, int64_t row_stride, int n,
                                           uint32_t *out) {
    const int inputs = pad_to_macro_tile(rows);
    out += (int64_t)n * (inputs / 2), x += n;
    for (int p = 0; p < inputs; p += 2)
        _mm512_storeu_si512(out + WORDS_PER_INPUT * p,
                            interleave(squared_relu_16(row_or_zeros(x, row_stride, p, rows)),
                                       squared_relu_16(row_or_zeros(x, row_stride, p + 1, rows))));
}

/* The gradient of a weight (outputs, inputs) from some tokens: grad_weight += grad_out' x, with
   grad_out (tokens, outputs) and x (tokens, inputs), or relu(x)^2 in the place of x. Three
   functions compute it, each for a part of the rows or columns: transpose_grad_out and pack_inputs,
   then accumulate_weight_rows. */
typedef struct {
    int tokens, padded_tokens, outputs, inputs;
    int squared_relu; /* whether relu(x)^2 takes the place of x */
    int overwrite;    /* = instead of += */
    const bf16 *grad_out, *x;
    bf16 *grad_out_transposed; /* (outputs, padded_tokens) */
    uint32_t *packed_x;        /* the packed (padded_tokens, inputs) */
    float *grad_weight;
} WeightGradient;

static void transpose_grad_out(const WeightGradient *g, int m) { /* TILE outputs */
    transpose_columns(g->tokens, g->grad_out, g->outputs, m,
                      g->grad_out_transposed + (int64_t)m * g->padded_tokens, g->padded_tokens);
}

static void pack_inputs(const WeightGradient *g, int n) { /* TILE inputs */
    if (g->squared_relu) pack_squared_relu_panel(g->tokens, g->x, g->inputs, n, g->packed_x);
    else pack_panel(g->tokens, g->x, g->inputs, n, g->packed_x);
}

static void accumulate_weight_rows(const WeightGradient *g, int m) { /* MACRO_TILE outputs */
    for (int n = 0; n < g->inputs; n += MACRO_TILE) {
        float *c = g->grad_weight + (int64_t)m * g->inputs + n;
        const uint32_t *panel = g->packed_x + (int64_t)n * (g->padded_tokens / 2);
        if (g->overwrite) zero_accumulators();
        else load_accumulators(c, g->inputs);
        accumulate(g->padded_tokens, g->grad_out_transposed + (int64_t)m * g->padded_tokens,
                   g->padded_tokens, panel, panel + WORDS_PER_INPUT * (int64_t)g->padded_tokens);
        store_accumulators(c, g->inputs);
    }
}

/* From all tokens, by all threads, CHUNK_TOKENS tokens at a time. workspace: CHUNK_TOKENS *
   (outputs + inputs) bf16 numbers. */
static void parallel_weight_gradient(int tokens, int outputs, int inputs, const bf16 *grad_out,
                                     const bf16 *x, int squared_relu, float *grad_weight,
                                     bf16 *workspace, int threads) {
#pragma omp parallel num_threads(threads)
    {
        configure_tiles();
        for (int first = 0; first < tokens; first += CHUNK_TOKENS) {
            const int size = tokens - first < CHUNK_TOKENS ? tokens - first : CHUNK_TOKENS;
            const WeightGradient g = {size,
                                      pad_to_macro_tile(size),
                                      outputs,
                                      inputs,
                                      squared_relu,
                                      !first,
                                      grad_out + (int64_t)first * outputs,
                                      x + (int64_t)first * inputs,
                                      workspace,
                                      (uint32_t *)(workspace + (int64_t)CHUNK_TOKENS * outputs),
                                      grad_weight};
#pragma omp for schedule(static) nowait
            for (int m = 0; m < outputs; m += TILE) transpose_grad_out(&g, m);
#pragma omp for schedule(static)
            for (int n = 0; n < inputs; n += TILE) pack_inputs(&g, n);
#pragma omp for schedule(static)
            for (int m = 0; m < outputs; m += MACRO_TILE) accumulate_weight_rows(&g, m);
        }
        _tile_release();
    }
}

/* From a chunk's tokens, by one thread. */
static void chunk_weight_gradient(int tokens, int outputs, int inputs, const bf16 *grad_out,
                                  const bf16 *x, int squared_relu, int overwrite,
                                  float *grad_weight, char *workspace) {
    const int padded_tokens = pad_to_macro_tile(tokens);
    bf16 *grad_out_transposed = allocate(&workspace, (int64_t)padded_tokens * outputs);
    const WeightGradient g = {tokens,
                              padded_tokens,
                              outputs,
                              inputs,
                              squared_relu,
                              overwrite,
                              grad_out,
                              x,
                              grad_out_transposed,
                              (uint32_t *)allocate(&workspace, (int64_t)padded_tokens * inputs),
                              grad_weight};
    for (int m = 0; m < outputs; m += TILE) transpose_grad_out(&g, m);
    for (int n = 0; n < inputs; n += TILE) pack_inputs(&g, n);
    for (int m = 0; m < outputs; m += MACRO_TILE) accumulate_weight_rows(&g, m);
}

/* ---- attention ------------------------------------------------------------------------------ */

/* Copies the rows of one head, (length, width), row_stride apart, to consecutive rows, padded with
   zeros to padded_length. */
static void copy_padded(int length, int padded_length, int width, const bf16 *from,
                        int64_t row_stride, bf16 *to) {
    for (int t = 0; t < length; t++) memcpy(to + t * width, from + t * row_stride, 2 * width);
    memset(to + length * width, 0, 2 * (int64_t)(padded_length - length) * width);
}

/* exp(x) for x <= 0, within 1e-4: 2^n times a polynomial for 2^f, x / ln(2) = n + f with |f| <=
   1/2. Results stop at 2^-120: arithmetic with subnormal numbers takes a hundred times as long. */
static inline vec_f32 exp_nonpositive(vec_f32 x) {
    const __m512 t = _mm512_max_ps(_mm512_set1_ps(-120.0f), (__m512)(x * 1.44269504f));
    const __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const vec_f32 f = (vec_f32)(t - n), zero = {0};
    vec_f32 p = zero + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    return (vec_f32)_mm512_scalef_ps((__m512)p, n);
}

/* The softmax of MACRO_TILE rows of scores, those of queries t ... t + MACRO_TILE - 1, without its
   division: each score becomes exp(score_scale * score - row maximum) where the query sees the key,
   first_visible ... query, and 0 elsewhere. inverse_sums (MACRO_TILE,): what to multiply a row by.
   Columns from t + MACRO_TILE on are neither read nor written. */
static void exponentiate_scores(const Heads *shape, int padded_length, int64_t sequence, int t,
                                const int32_t *first_visible, float *scores, float score_scale,
                                float *inverse_sums) {
    const vec_f32 zero = {0}, minus_infinity = zero - INFINITY;
    for (int r = 0; r < MACRO_TILE; r++) {
        float *row = scores + (int64_t)r * padded_length;
        const int begin = first_visible && t + r < shape->length
                              ? first_visible[sequence * shape->length + t + r]
                              : 0;
        const int end = t + r + 1, columns = t + MACRO_TILE;
        vec_f32 lane_max = minus_infinity, total = zero;
        for (int i = 0; i < columns; i += LANES) {
            vec_f32 score = load_vector(row + i) * score_scale;
            if (i < begin || i + LANES > end) {
                const vec_i32 key = consecutive_from(i);
                score = select_lanes((key >= begin) & (key < end), score, minus_infinity);
            }
            lane_max = (vec_f32)_mm512_max_ps((__m512)lane_max, (__m512)score);
            store_vector(row + i, score);
        }
        const float row_max = max_of_lanes(lane_max);
        for (int i = 0; i < columns; i += LANES) {
            vec_f32 e = exp_nonpositive(load_vector(row + i) - row_max);
            if (i < begin || i + LANES > end) {
                const vec_i32 key = consecutive_from(i);
                e = select_lanes((key >= begin) & (key < end), e, zero);
            }
            total += e;
            store_vector(row + i, e);
        }
        inverse_sums[r] = 1 / sum_lanes(total);
    }
}

/* Bytes of workspace that are enough for attention_backward and for attention_forward. */
int64_t attention_workspace_bytes(int length, int head_width) {
    const int64_t padded_length = pad_to_macro_tile(length);
    return 9 * round_up_to_64(2 * padded_length * head_width) +
           2 * round_up_to_64(4 * padded_length * head_width) +
           2 * round_up_to_64(4 * MACRO_TILE * padded_length) +
           4 * round_up_to_64(2 * padded_length * padded_length);
}

/* out (batch, length, query_heads * head_width) = attention of q (batch, query_heads, length,
   head_width) over k and v (batch, kv_heads, length, head_width), of a chunk. first_sequence: the
   chunk's first sequence's index in the whole batch, for the indices of `dropout`. */
static void attention_forward(const Heads *shape, int64_t first_sequence, const bf16 *q,
                              const bf16 *k, const bf16 *v, const int32_t *first_visible,
                              const Dropout *dropout, bf16 *out, char *workspace) {
    const int width = shape->head_width, length = shape->length;
    const int group_size = shape->query_heads / shape->kv_heads;
    const int padded_length = pad_to_macro_tile(length), out_stride = shape->query_heads * width;
    const float score_scale = 1 / sqrtf(width);
    bf16 *rows = allocate(&workspace, padded_length * width);
    bf16 *packed_k = allocate(&workspace, padded_length * width);
    bf16 *packed_v = allocate(&workspace, padded_length * width);
    bf16 *p = allocate(&workspace, MACRO_TILE * padded_length);
    float *scores = (float *)allocate(&workspace, 2 * MACRO_TILE * padded_length);
    float c[MACRO_TILE * MACRO_TILE], inverse_sums[MACRO_TILE];
    for (int64_t kv = 0; kv < (int64_t)shape->batch * shape->kv_heads; kv++) {
        const int64_t b = kv / shape->kv_heads, group = kv % shape->kv_heads;
        copy_padded(length, padded_length, width, k + kv * length * width, width, rows);
        for (int n = 0; n < padded_length; n += TILE)
            pack_transposed_panel(width, rows, width, n, (uint32_t *)packed_k);
        copy_padded(length, padded_length, width, v + kv * length * width, width, rows);
        for (int n = 0; n < width; n += TILE)
            pack_panel(padded_length, rows, width, n, (uint32_t *)packed_v);
        for (int head = group * group_size; head < (group + 1) * group_size; head++) {
            const int64_t chunk_head = b * shape->query_heads + head;
            const int64_t batch_head = (first_sequence + b) * shape->query_heads + head;
            copy_padded(length, padded_length, width, q + chunk_head * length * width, width, rows);
            for (int t = 0; t < padded_length; t += MACRO_TILE) {
                for (int n = 0; n <= t; n += MACRO_TILE)
                    multiply_macro_tile(width, rows + t * width, width, (uint32_t *)packed_k, n,
                                        scores + n, padded_length);
                exponentiate_scores(shape, padded_length, b, t, first_visible, scores, score_scale,
                                    inverse_sums);
                for (int r = 0; r < MACRO_TILE; r++)
                    for (int i = 0; i < t + MACRO_TILE; i += LANES) {
                        vec_f32 probability =
                            load_vector(scores + r * padded_length + i) * inverse_sums[r];
                        if (dropout->drop_threshold)
                            probability *= dropout_factors(
                                dropout, (batch_head * length + t + r) * length + i);
                        store_bf16(p + r * padded_length + i, probability);
                    }
                for (int n = 0; n < width; n += MACRO_TILE) {
                    const uint32_t *panel =
                        (uint32_t *)packed_v + (int64_t)n * (padded_length / 2);
                    zero_accumulators();
                    accumulate(t + MACRO_TILE, p, padded_length, panel,
                               panel + WORDS_PER_INPUT * (int64_t)padded_length);
                    store_accumulators(c, MACRO_TILE);
                    for (int r = 0; r < MACRO_TILE && t + r < length; r++)
                        for (int i = 0; i < MACRO_TILE; i += LANES)
                            store_bf16(
                                out + (b * length + t + r) * out_stride + head * width + n + i,
                                load_vector(c + MACRO_TILE * r + i));
                }
            }
        }
    }
}

static void round_to_bf16(int64_t count, const float *from, bf16 *to) {
    for (int64_t i = 0; i < count; i += LANES) store_bf16(to + i, load_vector(from + i));
}

/* The gradients of q, k and v, in their shapes, from grad_out, that of attention_forward's out. It
   computes the probabilities again. With P after dropout, and dS as in softmax_backward:
   grad_q = dS k, grad_k = dS' q, grad_v = P' grad_out. */
static void attention_backward(const Heads *shape, int64_t first_sequence, const bf16 *q,
                               const bf16 *k, const bf16 *v, const int32_t *first_visible,
                               const Dropout *dropout, const bf16 *grad_out, bf16 *grad_q,
                               bf16 *grad_k, bf16 *grad_v, char *workspace) {
    const int width = shape->head_width, length = shape->length;
    const int group_size = shape->query_heads / shape->kv_heads;
    const int padded_length = pad_to_macro_tile(length), out_stride = shape->query_heads * width;
    const float score_scale = 1 / sqrtf(width);
    bf16 *rows = allocate(&workspace, padded_length * width);
    bf16 *grad_rows = allocate(&workspace, padded_length * width);
    bf16 *packed_k_transposed = allocate(&workspace, padded_length * width);
    bf16 *packed_v_transposed = allocate(&workspace, padded_length * width);
    bf16 *packed_k = allocate(&workspace, padded_length * width);
    bf16 *packed_q = allocate(&workspace, padded_length * width);
    bf16 *packed_grad = allocate(&workspace, padded_length * width);
    float *sum_k = (float *)allocate(&workspace, 2 * padded_length * width);
    float *sum_v = (float *)allocate(&workspace, 2 * padded_length * width);
    float *scores = (float *)allocate(&workspace, 2 * MACRO_TILE * padded_length);
    float *grad_p = (float *)allocate(&workspace, 2 * MACRO_TILE * padded_length);
    bf16 *p = allocate(&workspace, (int64_t)padded_length * padded_length);
    bf16 *grad_s = allocate(&workspace, (int64_t)padded_length * padded_length);
    bf16 *p_transposed = allocate(&workspace, (int64_t)padded_length * padded_length);
    bf16 *grad_s_transposed = allocate(&workspace, (int64_t)padded_length * padded_length);
    float c[MACRO_TILE * MACRO_TILE], inverse_sums[MACRO_TILE];
    for (int64_t kv = 0; kv < (int64_t)shape->batch * shape->kv_heads; kv++) {
        const int64_t b = kv / shape->kv_heads, group = kv % shape->kv_heads;
        copy_padded(length, padded_length, width, k + kv * length * width, width, rows);
        for (int n = 0; n < padded_length; n += TILE)
            pack_transposed_panel(width, rows, width, n, (uint32_t *)packed_k_transposed);
        for (int n = 0; n < width; n += TILE)
            pack_panel(padded_length, rows, width, n, (uint32_t *)packed_k);
        copy_padded(length, padded_length, width, v + kv * length * width, width, rows);
        for (int n = 0; n < padded_length; n += TILE)
            pack_transposed_panel(width, rows, width, n, (uint32_t *)packed_v_transposed);
        for (int head = group * group_size; head < (group + 1) * group_size; head++) {
            const int64_t chunk_head = b * shape->query_heads + head;
            const int64_t batch_head = (first_sequence + b) * shape->query_heads + head;
            copy_padded(length, padded_length, width, q + chunk_head * length * width, width, rows);
            copy_padded(length, padded_length, width,
                        grad_out + b * length * out_stride + head * width, out_stride, grad_rows);
            for (int n = 0; n < width; n += TILE) {
                pack_panel(padded_length, rows, width, n, (uint32_t *)packed_q);
                pack_panel(padded_length, grad_rows, width, n, (uint32_t *)packed_grad);
            }
            for (int t = 0; t < padded_length; t += MACRO_TILE) { /* queries t ... */
                bf16 *p_rows = p + (int64_t)t * padded_length;
                bf16 *grad_s_rows = grad_s + (int64_t)t * padded_length;
                for (int n = 0; n <= t; n += MACRO_TILE) {
                    multiply_macro_tile(width, rows + t * width, width,
                                        (uint32_t *)packed_k_transposed, n, scores + n,
                                        padded_length);
                    multiply_macro_tile(width, grad_rows + t * width, width,
                                        (uint32_t *)packed_v_transposed, n, grad_p + n,
                                        padded_length);
                }
                exponentiate_scores(shape, padded_length, b, t, first_visible, scores, score_scale,
                                    inverse_sums);
                for (int r = 0; r < MACRO_TILE; r++) {
                    const int64_t first_element = (batch_head * length + t + r) * length;
                    const float *e = scores + r * padded_length;
                    float *grad_p_row = grad_p + r * padded_length;
                    vec_f32 lane_dot = {0};
                    for (int i = 0; i < t + MACRO_TILE; i += LANES) {
                        const vec_f32 probability = load_vector(e + i) * inverse_sums[r];
                        vec_f32 dropped = probability, grad = load_vector(grad_p_row + i);
                        if (dropout->drop_threshold) {
                            const vec_f32 factors = dropout_factors(dropout, first_element + i);
                            dropped *= factors, grad *= factors;
                        }
                        store_bf16(p_rows + r * padded_length + i, dropped);
                        store_vector(grad_p_row + i, grad);
                        lane_dot += grad * probability;
                    }
                    const float dot = sum_lanes(lane_dot);
                    for (int i = 0; i < t + MACRO_TILE; i += LANES)
                        store_bf16(grad_s_rows + r * padded_length + i,
                                   (load_vector(grad_p_row + i) - dot) * load_vector(e + i) *
                                       (score_scale * inverse_sums[r]));
                }
                for (int n = 0; n < width; n += MACRO_TILE) {
                    const uint32_t *panel =
                        (uint32_t *)packed_k + (int64_t)n * (padded_length / 2);
                    zero_accumulators();
                    accumulate(t + MACRO_TILE, grad_s_rows, padded_length, panel,
                               panel + WORDS_PER_INPUT * (int64_t)padded_length);
                    store_accumulators(c, MACRO_TILE);
                    for (int r = 0; r < MACRO_TILE && t + r < length; r++)
                        for (int i = 0; i < MACRO_TILE; i += LANES)
                            store_bf16(grad_q + (chunk_head * length + t + r) * width + n + i,
                                       load_vector(c + MACRO_TILE * r + i));
                }
            }
            /* Keys t ... get gradients from the queries that see them, which stand at t or later.
               The first head of a group overwrites sum_k and sum_v, the others add to them. */
            for (int t = 0; t < padded_length; t += MACRO_TILE) {
                const int64_t skipped = (int64_t)t * padded_length;
                const int queries = padded_length - t;
                for (int m = t; m < t + MACRO_TILE; m += TILE) {
                    transpose_columns(queries, p + skipped, padded_length, m,
                                      p_transposed + (int64_t)(m - t) * padded_length,
                                      padded_length);
                    transpose_columns(queries, grad_s + skipped, padded_length, m,
                                      grad_s_transposed + (int64_t)(m - t) * padded_length,
                                      padded_length);
                }
                for (int n = 0; n < width; n += MACRO_TILE) {
                    const int64_t panel0 = (int64_t)n * (padded_length / 2) + WORDS_PER_INPUT * t;
                    const int64_t panel1 = panel0 + WORDS_PER_INPUT * (int64_t)padded_length;
                    float *sum = sum_k + (int64_t)t * width + n;
                    if (head == group * group_size) zero_accumulators();
                    else load_accumulators(sum, width);
                    accumulate(queries, grad_s_transposed, padded_length,
                               (uint32_t *)packed_q + panel0, (uint32_t *)packed_q + panel1);
                    store_accumulators(sum, width);
                    sum = sum_v + (int64_t)t * width + n;
                    if (head == group * group_size) zero_accumulators();
                    else load_accumulators(sum, width);
                    accumulate(queries, p_transposed, padded_length,
                               (uint32_t *)packed_grad + panel0, (uint32_t *)packed_grad + panel1);
                    store_accumulators(sum, width);
                }
            }
        }
        round_to_bf16((int64_t)length * width, sum_k, grad_k + kv * length * width);
        round_to_bf16((int64_t)length * width, sum_v, grad_v + kv * length * width);
    }
}

/* ---- the transformer block ------------------------------------------------------------------ */

/* amx_block._Block. With D = query_heads * head_width, N = batch * length tokens and a linear
   layer's weight (outputs, inputs):
   x_mid = x + dropout(out(attention(qkv(norm1(x))))),
   result = x_mid + dropout(down(relu(up(norm2(x_mid)))^2)). */
typedef struct {
    int32_t hidden, padding;
    const float *norm1, *qkv, *out, *norm2, *up, *down; /* weights */
    const int32_t *first_visible;                       /* (batch, length) or null */
    Dropout attention_dropout, mixer_dropout, ffn_dropout;
    /* Kept by the forward for the backward pass, (N, ...): the outputs of layers in bf16, the
       norms' 1 / rms, and x_mid. */
    bf16 *norm1_out, *qkv_out, *attention_out, *norm2_out, *up_out;
    float *norm1_inverse_rms, *qk_inverse_rms, *x_mid, *norm2_inverse_rms;
    char *workspace; /* block_spare bytes */
} Block;

/* amx_block._Gradients: of the weights and of the block's input x. norm1 and norm2 are (chunks, D):
   one sum for each chunk, and the caller adds them. */
typedef struct {
    float *norm1, *qkv, *out, *norm2, *up, *down, *x;
} Gradients;

/* The packed weights, for the forward or the backward products, and sizes. */
typedef struct {
    const uint32_t *qkv, *out, *up, *down;
    int width, qkv_width, hidden, kv_width;
} PackedWeights;

static int stream_width(const Heads *shape) { return shape->query_heads * shape->head_width; }
static int qkv_width(const Heads *shape) {
    return (shape->query_heads + 2 * shape->kv_heads) * shape->head_width;
}

/* Sequences of a chunk. A thread's sequences are cut evenly into chunks of at most about
   CHUNK_TOKENS tokens, so that each thread has as many chunks. */
static int chunk_sequences(const Heads *shape, int threads) {
    const int sequences = (shape->batch + threads - 1) / threads;
    const int chunks = (sequences * shape->length + CHUNK_TOKENS - 1) / CHUNK_TOKENS;
    return (sequences + chunks - 1) / chunks;
}

int block_chunks(const Heads *shape, int threads) {
    const int size = chunk_sequences(shape, threads);
    return (shape->batch + size - 1) / size;
}

/* The numbers of the four weight matrices. */
static int64_t weight_count(const Heads *shape, int hidden) {
    const int64_t d = stream_width(shape);
    return d * (qkv_width(shape) + d + 2 * (int64_t)hidden);
}

/* Bytes of a thread's workspace, at least: chunk_backward's buffers in bf16 and in float32, private
   gradient sums, and the larger of what a weight gradient and attention need. The last two terms
   are room for rows that are read after the last one, and for aligning buffers to 64 bytes. */
static int64_t chunk_workspace_bytes(const Heads *shape, int hidden, int threads) {
    const int64_t n = pad_to_macro_tile(chunk_sequences(shape, threads) * shape->length);
    const int64_t d = stream_width(shape), q = qkv_width(shape);
    const int64_t private_weights =
        weight_count(shape, hidden) <= MAX_PRIVATE_WEIGHTS ? weight_count(shape, hidden) : 0;
    const int64_t widest = hidden > q ? hidden : q, weight_gradient = 2 * n * (widest + d);
    const int64_t attention = attention_workspace_bytes(shape->length, shape->head_width);
    return 2 * n * (6 * d + 3 * q + hidden) + 4 * n * d + 4 * private_weights +
           (weight_gradient > attention ? weight_gradient : attention) + 2 * MACRO_TILE * widest +
           4096;
}

/* Bytes of the workspace of `block` and `block_backward`: packed weights, the gradients of all
   layers' outputs, parallel_weight_gradient's workspace, and that of each thread. */
int64_t block_spare(const Heads *shape, int hidden, int threads) {
    const int64_t n = (int64_t)shape->batch * shape->length, d = stream_width(shape);
    const int64_t q = qkv_width(shape), widest = hidden > q ? hidden : q;
    return 2 * weight_count(shape, hidden) + 2 * n * (2 * d + q + hidden) +
           2 * CHUNK_TOKENS * (widest + d) +
           threads * round_up_to_64(chunk_workspace_bytes(shape, hidden, threads)) +
           2 * MACRO_TILE * widest + 4096;
}

static PackedWeights pack_weights(const Heads *shape, const Block *block, int backward,
                                  char **workspace, int threads) {
    const int d = stream_width(shape), q = qkv_width(shape), hidden = block->hidden;
    uint32_t *qkv = (uint32_t *)allocate(workspace, (int64_t)d * q);
    uint32_t *out = (uint32_t *)allocate(workspace, (int64_t)d * d);
    uint32_t *up = (uint32_t *)allocate(workspace, (int64_t)d * hidden);
    uint32_t *down = (uint32_t *)allocate(workspace, (int64_t)d * hidden);
    void (*pack)(int, int, const float *, uint32_t *, int) =
        backward ? pack_weight_backward : pack_weight_forward;
    pack(q, d, block->qkv, qkv, threads);
    pack(d, d, block->out, out, threads);
    pack(hidden, d, block->up, up, threads);
    pack(d, hidden, block->down, down, threads);
    return (PackedWeights){qkv, out, up, down, d, q, hidden, shape->kv_heads * shape->head_width};
}

/* The shape of a chunk: `count` sequences, from `first_sequence` on. */
static Heads chunk_shape(const Heads *shape, int first_sequence, int count) {
    Heads chunk = *shape;
    chunk.batch = count;
    if (shape->cos)
        chunk.cos += first_sequence * shape->rotary_batch_stride,
            chunk.sin += first_sequence * shape->rotary_batch_stride;
    return chunk;
}

/* The forward pass of a chunk, by one thread. x and out are of the whole batch. */
static void chunk_forward(const Heads *shape, const Block *block, const PackedWeights *w,
                          int first_sequence, int count, const float *x, float *out,
                          char *workspace) {
    const Heads chunk = chunk_shape(shape, first_sequence, count);
    const int n = count * shape->length, d = w->width, q_width = w->qkv_width, hidden = w->hidden;
    const int64_t first_token = (int64_t)first_sequence * shape->length;
    const int64_t qk_heads = shape->query_heads + shape->kv_heads;
    bf16 *q = allocate(&workspace, (int64_t)n * d);
    bf16 *k = allocate(&workspace, (int64_t)n * w->kv_width);
    bf16 *v = allocate(&workspace, (int64_t)n * w->kv_width);
    bf16 *squared_relu = allocate(&workspace, (int64_t)n * hidden);
    bf16 *norm1_out = block->norm1_out + first_token * d;
    bf16 *norm2_out = block->norm2_out + first_token * d;
    bf16 *attention_out = block->attention_out + first_token * d;
    bf16 *qkv_out = block->qkv_out + first_token * q_width;
    float *x_mid = block->x_mid + first_token * d;

    norm(n, d, BFLOAT16, x + first_token * d, block->norm1, shape->eps, norm1_out,
         block->norm1_inverse_rms + first_token, 1);
    matmul(n, q_width, d, norm1_out, w->qkv, &(Epilogue){.kind = STORE, .out = qkv_out});
    split(&chunk, BFLOAT16, qkv_out, q, k, v, block->qk_inverse_rms + first_token * qk_heads, 1);
    attention_forward(&chunk, first_sequence, q, k, v,
                      block->first_visible ? block->first_visible + first_token : 0,
                      &block->attention_dropout, attention_out, workspace);
    matmul(n, d, d, attention_out, w->out,
           &(Epilogue){.kind = ADD_RESIDUAL, .residual = x + first_token * d, .sum = x_mid,
                       .dropout = &block->mixer_dropout, .first_element = first_token * d});
    norm(n, d, BFLOAT16, x_mid, block->norm2, shape->eps, norm2_out,
         block->norm2_inverse_rms + first_token, 1);
    matmul(n, hidden, d, norm2_out, w->up,
           &(Epilogue){.kind = STORE_SQUARED_RELU, .out = block->up_out + first_token * hidden,
                       .squared_relu = squared_relu});
    matmul(n, d, hidden, squared_relu, w->down,
           &(Epilogue){.kind = ADD_RESIDUAL, .residual = x_mid, .sum = out + first_token * d,
                       .dropout = &block->ffn_dropout, .first_element = first_token * d});
}

/* out (batch, length, D) of the residual stream x, of the same shape. */
void block(const Heads *shape, const Block *block, const float *x, float *out, int threads) {
    char *workspace = block->workspace;
    const PackedWeights w = pack_weights(shape, block, 0, &workspace, threads);
    const int size = chunk_sequences(shape, threads);
#pragma omp parallel num_threads(threads)
    {
        configure_tiles();
        char *own_workspace =
            workspace + omp_get_thread_num() * round_up_to_64(chunk_workspace_bytes(
                                                   shape, block->hidden, threads));
#pragma omp for schedule(static)
        for (int first = 0; first < shape->batch; first += size)
            chunk_forward(shape, block, &w, first,
                          shape->batch - first < size ? shape->batch - first : size, x, out,
                          own_workspace);
        _tile_release();
    }
}

/* The gradients of the four linear layers' outputs, (N, outputs) of all tokens. */
typedef struct {
    bf16 *down_out, *up_out, *mixer_out, *qkv_out;
} OutputGradients;

/* to = bf16 of dropout(from); first_element: the index of from[0] for `dropout`. */
static void dropout_to_bf16(int64_t count, int64_t first_element, const float *from,
                            const Dropout *dropout, bf16 *to) {
    for (int64_t i = 0; i < count; i += LANES) {
        vec_f32 v = load_vector(from + i);
        if (dropout->drop_threshold) v *= dropout_factors(dropout, first_element + i);
        store_bf16(to + i, v);
    }
}

/* The backward pass of a chunk, by one thread, from grad_result, the gradient of `block`'s out. It
   writes sums' norm1, norm2 and x. shared: keeps the gradients of the layers' outputs there, for
   parallel_weight_gradient. Without it (null) the weights' gradients are added to `sums`, or
   overwrite them where `overwrite`. */
static void chunk_backward(const Heads *shape, const Block *block, const PackedWeights *w,
                           const OutputGradients *shared, int first_sequence, int count,
                           const float *x, const float *grad_result, const Gradients *sums,
                           int overwrite, char *workspace) {
    const Heads chunk = chunk_shape(shape, first_sequence, count);
    const int n = count * shape->length, d = w->width, q_width = w->qkv_width, hidden = w->hidden;
    const int64_t first_token = (int64_t)first_sequence * shape->length;
    const int64_t qk_heads = shape->query_heads + shape->kv_heads;
    bf16 *grad_down_out =
        shared ? shared->down_out + first_token * d : allocate(&workspace, (int64_t)n * d);
    bf16 *grad_up_out =
        shared ? shared->up_out + first_token * hidden : allocate(&workspace, (int64_t)n * hidden);
    bf16 *grad_mixer_out =
        shared ? shared->mixer_out + first_token * d : allocate(&workspace, (int64_t)n * d);
    bf16 *grad_qkv_out = shared ? shared->qkv_out + first_token * q_width
                                : allocate(&workspace, (int64_t)n * q_width);
    bf16 *grad_input = allocate(&workspace, (int64_t)n * d); /* of the linear layer at hand */
    float *grad_x_mid = (float *)allocate(&workspace, 2 * (int64_t)n * d);
    bf16 *q = allocate(&workspace, (int64_t)n * d);
    bf16 *k = allocate(&workspace, (int64_t)n * w->kv_width);
    bf16 *v = allocate(&workspace, (int64_t)n * w->kv_width);
    bf16 *grad_q = allocate(&workspace, (int64_t)n * d);
    bf16 *grad_k = allocate(&workspace, (int64_t)n * w->kv_width);
    bf16 *grad_v = allocate(&workspace, (int64_t)n * w->kv_width);

    dropout_to_bf16((int64_t)n * d, first_token * d, grad_result + first_token * d,
                    &block->ffn_dropout, grad_down_out);
    matmul(n, hidden, d, grad_down_out, w->down,
           &(Epilogue){.kind = SQUARED_RELU_BACKWARD, .out = grad_up_out,
                       .relu_input = block->up_out + first_token * hidden});
    if (!shared) {
        chunk_weight_gradient(n, d, hidden, grad_down_out, block->up_out + first_token * hidden, 1,
                              overwrite, sums->down, workspace);
        chunk_weight_gradient(n, hidden, d, grad_up_out, block->norm2_out + first_token * d, 0,
                              overwrite, sums->up, workspace);
    }
    matmul(n, d, hidden, grad_up_out, w->up, &(Epilogue){.kind = STORE, .out = grad_input});
    memset(sums->norm2, 0, d * sizeof(float));
    norm_rows_backward(n, d, BFLOAT16, block->x_mid + first_token * d, block->norm2,
                       block->norm2_inverse_rms + first_token, grad_input,
                       grad_result + first_token * d, grad_x_mid, sums->norm2);
    dropout_to_bf16((int64_t)n * d, first_token * d, grad_x_mid, &block->mixer_dropout,
                    grad_mixer_out);
    if (!shared)
        chunk_weight_gradient(n, d, d, grad_mixer_out, block->attention_out + first_token * d, 0,
                              overwrite, sums->out, workspace);
    matmul(n, d, d, grad_mixer_out, w->out, &(Epilogue){.kind = STORE, .out = grad_input});
    split(&chunk, BFLOAT16, block->qkv_out + first_token * q_width, q, k, v,
          block->qk_inverse_rms + first_token * qk_heads, 1);
    attention_backward(&chunk, first_sequence, q, k, v,
                       block->first_visible ? block->first_visible + first_token : 0,
                       &block->attention_dropout, grad_input, grad_q, grad_k, grad_v, workspace);
    split_backward(&chunk, BFLOAT16, block->qkv_out + first_token * q_width,
                   block->qk_inverse_rms + first_token * qk_heads, grad_q, grad_k, grad_v,
                   grad_qkv_out, 1);
    if (!shared)
        chunk_weight_gradient(n, q_width, d, grad_qkv_out, block->norm1_out + first_token * d, 0,
                              overwrite, sums->qkv, workspace);
    matmul(n, d, q_width, grad_qkv_out, w->qkv, &(Epilogue){.kind = STORE, .out = grad_input});
    memset(sums->norm1, 0, d * sizeof(float));
    norm_rows_backward(n, d, BFLOAT16, x + first_token * d, block->norm1,
                       block->norm1_inverse_rms + first_token, grad_input, grad_x_mid,
                       sums->x + first_token * d, sums->norm1);
}

/* Where a thread sums the weights' gradients: thread 0 in the result, the others in their
   workspace. */
static Gradients private_gradients(const Gradients *result, const PackedWeights *w, int thread,
                                   char **workspace) {
    Gradients own = *result;
    if (!thread) return own;
    const int64_t d = w->width;
    own.qkv = (float *)allocate(workspace, 2 * d * w->qkv_width);
    own.out = (float *)allocate(workspace, 2 * d * d);
    own.up = (float *)allocate(workspace, 2 * d * w->hidden);
    own.down = (float *)allocate(workspace, 2 * d * w->hidden);
    return own;
}

static void add_in_place(int64_t count, float *to, const float *from) {
    for (int64_t i = 0; i < count; i += LANES)
        store_vector(to + i, load_vector(to + i) + load_vector(from + i));
}

/* The gradients of the weights and of x from grad_result (batch, length, D), that of `block`'s
   out. */
void block_backward(const Heads *shape, const Block *block, const float *x,
                    const float *grad_result, const Gradients *result, int threads) {
    const int64_t n = (int64_t)shape->batch * shape->length;
    const int size = chunk_sequences(shape, threads);
    const int private_sums = weight_count(shape, block->hidden) <= MAX_PRIVATE_WEIGHTS;
    char *workspace = block->workspace;
    const PackedWeights w = pack_weights(shape, block, 1, &workspace, threads);
    const int d = w.width, q_width = w.qkv_width, hidden = w.hidden;
    OutputGradients shared;
    bf16 *gradient_workspace = 0;
    if (!private_sums) {
        shared = (OutputGradients){allocate(&workspace, n * d), allocate(&workspace, n * hidden),
                                   allocate(&workspace, n * d), allocate(&workspace, n * q_width)};
        gradient_workspace = allocate(
            &workspace, (int64_t)CHUNK_TOKENS * ((hidden > q_width ? hidden : q_width) + d));
    }
    const int64_t thread_bytes =
        round_up_to_64(chunk_workspace_bytes(shape, block->hidden, threads));
#pragma omp parallel num_threads(threads)
    {
        configure_tiles();
        const int thread = omp_get_thread_num();
        char *own_workspace = workspace + thread * thread_bytes;
        Gradients own = *result;
        if (private_sums) own = private_gradients(result, &w, thread, &own_workspace);
        int overwrite = 1; /* until this thread's first chunk is done */
#pragma omp for schedule(static)
        for (int first = 0; first < shape->batch; first += size) {
            own.norm1 = result->norm1 + (int64_t)(first / size) * d;
            own.norm2 = result->norm2 + (int64_t)(first / size) * d;
            chunk_backward(shape, block, &w, private_sums ? 0 : &shared, first,
                           shape->batch - first < size ? shape->batch - first : size, x,
                           grad_result, &own, overwrite, own_workspace);
            overwrite = 0;
        }
        /* One thread after the other adds its sums to those of thread 0: the order is fixed. */
        for (int adding = 1; private_sums && adding < omp_get_num_threads(); adding++) {
#pragma omp barrier
            if (thread != adding || overwrite) continue;
            add_in_place((int64_t)d * q_width, result->qkv, own.qkv);
            add_in_place((int64_t)d * d, result->out, own.out);
            add_in_place((int64_t)d * hidden, result->up, own.up);
            add_in_place((int64_t)d * hidden, result->down, own.down);
        }
        _tile_release();
    }
    if (private_sums) return;
    parallel_weight_gradient(n, d, hidden, shared.down_out, block->up_out, 1, result->down,
                             gradient_workspace, threads);
    parallel_weight_gradient(n, hidden, d, shared.up_out, block->norm2_out, 0, result->up,
                             gradient_workspace, threads);
    parallel_weight_gradient(n, d, d, shared.mixer_out, block->attention_out, 0, result->out,
                             gradient_workspace, threads);
    parallel_weight_gradient(n, q_width, d, shared.qkv_out, block->norm1_out, 0, result->qkv,
                             gradient_workspace, threads);
}

/* ---- Newton-Schulz orthogonalisation -------------------------------------------------------- */

/* Writes c (MACRO_TILE, MACRO_TILE) as the part of a symmetric matrix (size, size) at row m, column
   n, and its transpose at row n, column m. */
static void store_symmetric(int size, int m, int n, const float *c, bf16 *matrix) {
    bf16 block[MACRO_TILE * MACRO_TILE] __attribute__((aligned(64)));
    for (int i = 0; i < MACRO_TILE * MACRO_TILE; i += LANES)
        store_bf16(block + i, load_vector(c + i));
    for (int r = 0; r < MACRO_TILE; r++)
        memcpy(matrix + (int64_t)(m + r) * size + n, block + MACRO_TILE * r, 2 * MACRO_TILE);
    if (m == n) return;
    for (int i = 0; i < MACRO_TILE; i += TILE)
        transpose_columns(MACRO_TILE, block, MACRO_TILE, i, matrix + (int64_t)(n + i) * size + m,
                          size);
}

/* Bytes of the workspace of one thread of `orthogonalise`. */
int64_t orthogonal_spare(int rows, int columns) {
    const int64_t shorter = rows < columns ? rows : columns;
    const int64_t longer = rows < columns ? columns : rows;
    return 3 * round_up_to_64(2 * shorter * longer) + 3 * round_up_to_64(2 * shorter * shorter);
}

enum { NEWTON_SCHULZ_STEPS = 5 };

/* Muon's Newton-Schulz iteration with Jordan's quintic, of one matrix x (rows, columns) with rows
   <= columns, in place: _newton_schulz of core/train/muon.py. x is divided by its Frobenius norm;
   then in each step, with gram = x x', x = a x + (b gram + c gram^2) x. */
static void newton_schulz(int rows, int columns, bf16 *x, float a, float b, float c,
                          char *workspace) {
    bf16 *next = allocate(&workspace, (int64_t)rows * columns);
    uint32_t *packed_x = (uint32_t *)allocate(&workspace, (int64_t)rows * columns);
    bf16 *gram = allocate(&workspace, (int64_t)rows * rows);
    bf16 *polynomial = allocate(&workspace, (int64_t)rows * rows); /* b gram + c gram^2 */
    uint32_t *packed_gram = (uint32_t *)allocate(&workspace, (int64_t)rows * rows);
    float product[MACRO_TILE * MACRO_TILE] __attribute__((aligned(64)));
    const int64_t count = (int64_t)rows * columns;
    double sum_of_squares = 0;
    for (int64_t i = 0; i < count; i += LANES) {
        const vec_f32 v = load_bf16(x + i);
        sum_of_squares += sum_lanes(v * v);
    }
    const float scale = 1 / ((float)sqrt(sum_of_squares) + 1e-7f);
    for (int64_t i = 0; i < count; i += LANES) store_bf16(x + i, load_bf16(x + i) * scale);
    for (int step = 0; step < NEWTON_SCHULZ_STEPS; step++) {
        for (int n = 0; n < rows; n += TILE)
            pack_transposed_panel(columns, x, columns, n, packed_x);
        for (int m = 0; m < rows; m += MACRO_TILE)
            for (int n = 0; n <= m; n += MACRO_TILE) {
                multiply_macro_tile(columns, x + (int64_t)m * columns, columns, packed_x, n,
                                    product, MACRO_TILE);
                store_symmetric(rows, m, n, product, gram);
            }
        for (int n = 0; n < rows; n += TILE) pack_panel(rows, gram, rows, n, packed_gram);
        for (int m = 0; m < rows; m += MACRO_TILE)
            for (int n = 0; n <= m; n += MACRO_TILE) {
                multiply_macro_tile(rows, gram + (int64_t)m * rows, rows, packed_gram, n, product,
                                    MACRO_TILE);
                for (int r = 0; r < MACRO_TILE; r++)
                    for (int i = 0; i < MACRO_TILE; i += LANES)
                        store_vector(product + MACRO_TILE * r + i,
                                     b * load_bf16(gram + (int64_t)(m + r) * rows + n + i) +
                                         c * load_vector(product + MACRO_TILE * r + i));
                store_symmetric(rows, m, n, product, polynomial);
            }
        for (int n = 0; n < columns; n += TILE) pack_panel(rows, x, columns, n, packed_x);
        for (int m = 0; m < rows; m += MACRO_TILE)
            for (int n = 0; n < columns; n += MACRO_TILE) {
                multiply_macro_tile(rows, polynomial + (int64_t)m * rows, rows, packed_x, n,
                                    product, MACRO_TILE);
                for (int r = 0; r < MACRO_TILE; r++)
                    for (int i = 0; i < MACRO_TILE; i += LANES) {
                        const int64_t at = (int64_t)(m + r) * columns + n + i;
                        store_bf16(next + at, a * load_bf16(x + at) +
                                                  load_vector(product + MACRO_TILE * r + i));
                    }
            }
        bf16 *swapped = x;
        x = next, next = swapped;
    }
    memcpy(next, x, 2 * count); /* after an odd number of swaps `next` is the caller's matrix */
}

/* matrices (count, rows, columns), each in place; one with more rows than columns is transposed
   first and back afterwards. workspace: orthogonal_spare bytes for each thread. */
void orthogonalise(int count, int rows, int columns, bf16 *matrices, float a, float b, float c,
                   char *workspace, int threads) {
    const int64_t size = (int64_t)rows * columns;
    const int tall = rows > columns;
#pragma omp parallel num_threads(threads)
    {
        char *own_workspace = workspace + omp_get_thread_num() * orthogonal_spare(rows, columns);
        configure_tiles();
#pragma omp for schedule(dynamic)
        for (int number = 0; number < count; number++) {
            bf16 *x = matrices + number * size;
            if (!tall) {
                newton_schulz(rows, columns, x, a, b, c, own_workspace);
                continue;
            }
            char *rest = own_workspace;
            bf16 *transposed = allocate(&rest, size);
            for (int m = 0; m < columns; m += TILE)
                transpose_columns(rows, x, columns, m, transposed + (int64_t)m * rows, rows);
            newton_schulz(columns, rows, transposed, a, b, c, rest);
            for (int m = 0; m < rows; m += TILE)
                transpose_columns(columns, transposed, rows, m, x + (int64_t)m * columns, columns);
        }
        _tile_release();
    }
}

#else
int tiles(void) { return 0; }
#endif
