/* The element-wise and row-wise operations of a training step on a CPU, forward and backward, each
   in one pass over memory: residual addition with dropout, RMSNorm, squared ReLU, the split of a
   QKV projection into heads, softmax, cross-entropy, and the optimiser's updates. Matrix products
   between them are torch's.

   core/ops/cpu_kernels.py calls these functions through ctypes (SIGNATURES) and wraps them for
   autograd; core/ops/autograd_ops.py has plain forms of some. core/ops/native_library.py compiles
   them.

   The residual stream, weights and sums are float32. Activations and their gradients are of type
   `dtype`, FLOAT32 or BFLOAT16, and are computed in float32. A null pointer means that an operand
   is left out. Functions named *_typed have a constant dtype, by DISPATCH_DTYPE.

   Results do not depend on the number of threads: one thread computes a whole row, and sums over
   rows are made of REDUCTION_PARTS partial sums. */

#include "training_ops.h"

/* ---- residual addition ---------------------------------------------------------------------- */

/* out = residual + dropout(y), of `count` elements; residual may be null. */
ALWAYS_INLINE void add_typed(int64_t count, int dtype, const float *residual, const void *y,
                             void *out, int out_dtype, const Dropout *dropout, int threads) {
    const int64_t vectors = (count + LANES - 1) / LANES;
    PARALLEL_FOR(count)
    for (int64_t v = 0; v < vectors; v++) {
        const int64_t i = v * LANES;
        vec_f32 total = load_elements(y, dtype, i, count);
        if (dropout->drop_threshold) total *= dropout_factors(dropout, i);
        if (residual) total += load_elements(residual, FLOAT32, i, count);
        store_elements(out, out_dtype, i, count, total);
    }
}

void add(int64_t count, int dtype, const float *residual, const void *y, float *out,
         const Dropout *dropout, int threads) {
    DISPATCH_DTYPE(add_typed(count, DTYPE, residual, y, out, FLOAT32, dropout, threads))
}

/* The gradient of y. That of the residual is grad_out itself. */
void add_backward(int64_t count, int dtype, const float *grad_out, void *grad_y,
                  const Dropout *dropout, int threads) {
    DISPATCH_DTYPE(add_typed(count, FLOAT32, 0, grad_out, grad_y, DTYPE, dropout, threads))
}

/* ---- RMSNorm (Zhang & Sennrich 2019) -------------------------------------------------------- */

/* out (rows, width) = x / rms(x) * weight (width,). inverse_rms (rows,) is kept for the backward
   pass. */
ALWAYS_INLINE void norm_typed(int64_t rows, int width, int dtype, const float *x,
                              const float *weight, float eps, void *out, float *inverse_rms,
                              int threads) {
    PARALLEL_FOR(rows * width)
    for (int64_t r = 0; r < rows; r++) {
        const float *x_row = x + r * width;
        void *out_row = (void *)element_address(out, dtype, r * width);
        vec_f32 sum_of_squares = {0};
        for (int i = 0; i < width; i += LANES) {
            const vec_f32 v = load_elements(x_row, FLOAT32, i, width);
            sum_of_squares += v * v;
        }
        const float scale = inverse_rms[r] = 1 / sqrtf(sum_lanes(sum_of_squares) / width + eps);
        for (int i = 0; i < width; i += LANES)
            store_elements(out_row, dtype, i, width,
                           load_elements(x_row, FLOAT32, i, width) * scale *
                               load_elements(weight, FLOAT32, i, width));
    }
}

void norm(int64_t rows, int width, int dtype, const float *x, const float *weight, float eps,
          void *out, float *inverse_rms, int threads) {
    DISPATCH_DTYPE(norm_typed(rows, width, DTYPE, x, weight, eps, out, inverse_rms, threads))
}

/* With n = x * inverse_rms and h = grad_out * weight: grad_x = inverse_rms * (h - n * mean(h * n)),
   plus grad_residual, the gradient that x gets from its other uses; it may be null.
   grad_weight (width,) += the sum over rows of grad_out * n. */
ALWAYS_INLINE void norm_rows_backward_typed(int64_t rows, int width, int dtype, const float *x,
                                            const float *weight, const float *inverse_rms,
                                            const void *grad_out, const float *grad_residual,
                                            float *grad_x, float *grad_weight) {
    for (int64_t r = 0; r < rows; r++) {
        const float *x_row = x + r * width, scale = inverse_rms[r];
        const void *grad_row = element_address(grad_out, dtype, r * width);
        vec_f32 dot = {0};
        for (int i = 0; i < width; i += LANES) {
            const vec_f32 n = load_elements(x_row, FLOAT32, i, width) * scale;
            const vec_f32 grad_times_n = load_elements(grad_row, dtype, i, width) * n;
            dot += grad_times_n * load_elements(weight, FLOAT32, i, width);
            store_elements(grad_weight, FLOAT32, i, width,
                           load_elements(grad_weight, FLOAT32, i, width) + grad_times_n);
        }
        const float mean = sum_lanes(dot) / width;
        for (int i = 0; i < width; i += LANES) {
            const vec_f32 n = load_elements(x_row, FLOAT32, i, width) * scale;
            const vec_f32 h = load_elements(grad_row, dtype, i, width) *
                              load_elements(weight, FLOAT32, i, width);
            vec_f32 grad = (h - n * mean) * scale;
            if (grad_residual) grad += load_elements(grad_residual + r * width, FLOAT32, i, width);
            store_elements(grad_x + r * width, FLOAT32, i, width, grad);
        }
    }
}

void norm_rows_backward(int64_t rows, int width, int dtype, const float *x, const float *weight,
                        const float *inverse_rms, const void *grad_out, const float *grad_residual,
                        float *grad_x, float *grad_weight) {
    DISPATCH_DTYPE(norm_rows_backward_typed(rows, width, DTYPE, x, weight, inverse_rms, grad_out,
                                            grad_residual, grad_x, grad_weight))
}

/* grad_weight_parts (REDUCTION_PARTS, width): partial sums over the rows, which the caller adds. */
void norm_backward(int64_t rows, int width, int dtype, const float *x, const float *weight,
                   const float *inverse_rms, const void *grad_out, const float *grad_residual,
                   float *grad_x, float *grad_weight_parts, int threads) {
    PARALLEL_FOR(rows * width)
    for (int part = 0; part < REDUCTION_PARTS; part++) {
        const int64_t first_row = rows * part / REDUCTION_PARTS, i = first_row * width;
        float *grad_weight = grad_weight_parts + part * width;
        memset(grad_weight, 0, width * sizeof *grad_weight);
        norm_rows_backward(rows * (part + 1) / REDUCTION_PARTS - first_row, width, dtype, x + i,
                           weight, inverse_rms + first_row, element_address(grad_out, dtype, i),
                           grad_residual ? grad_residual + i : 0, grad_x + i, grad_weight);
    }
}

/* ---- squared ReLU --------------------------------------------------------------------------- */

/* Without grad_out: out = relu(x)^2. With it: out = grad_out * 2 relu(x), the gradient of x.
   A NaN stays a NaN: it is not below zero. */
ALWAYS_INLINE void relu2_typed(int64_t count, int dtype, const void *x, const void *grad_out,
                               void *out, int threads) {
    const int64_t vectors = (count + LANES - 1) / LANES;
    const vec_f32 zero = {0};
    PARALLEL_FOR(count)
    for (int64_t v = 0; v < vectors; v++) {
        const int64_t i = v * LANES;
        const vec_f32 a = load_elements(x, dtype, i, count);
        const vec_f32 relu = select_lanes(a < zero, zero, a);
        store_elements(
            out, dtype, i, count,
            relu * (grad_out ? 2.0f * load_elements(grad_out, dtype, i, count) : relu));
    }
}

void relu2(int64_t count, int dtype, const void *x, const void *grad_out, void *out, int threads) {
    DISPATCH_DTYPE(relu2_typed(count, DTYPE, x, grad_out, out, threads))
}

/* ---- QKV split: query-key norm and rotary embedding ----------------------------------------- */

/* Rotates LANES pairs, each of an element of a head's first half and one of its second half, by
   their angles (Su et al. 2021). With -sin it rotates back. */
ALWAYS_INLINE void rotate_pairs(vec_f32 *a, vec_f32 *b, vec_f32 cos, vec_f32 sin) {
    const vec_f32 rotated_a = *a * cos - *b * sin;
    *b = *b * cos + *a * sin;
    *a = rotated_a;
}

/* Of a table (cos or sin) the elements of position t of sequence b, from the i-th on; null where
   there is no table. */
ALWAYS_INLINE const float *rotary_row(const Heads *shape, const float *table, int64_t b, int64_t t,
                                      int i) {
    return table ? table + b * shape->rotary_batch_stride + t * shape->head_width + i : 0;
}

/* The address of head n of position t of sequence b. n counts query heads, then key heads, then
   value heads. q is (batch, query_heads, length, head_width); k and v are (batch, kv_heads, length,
   head_width). */
ALWAYS_INLINE const void *head_address(const Heads *shape, int dtype, int64_t b, int64_t t, int n,
                                       const void *q, const void *k, const void *v) {
    const int is_query = n < shape->query_heads, is_key = n < shape->query_heads + shape->kv_heads;
    const int heads = is_query ? shape->query_heads : shape->kv_heads;
    const int head = is_query ? n : n - shape->query_heads - (is_key ? 0 : shape->kv_heads);
    return element_address(is_query ? q : is_key ? k : v, dtype,
                           ((b * heads + head) * shape->length + t) * shape->head_width);
}

/* qkv (batch, length, query_heads + 2 kv_heads, head_width) -> q, k, v, shaped as head_address
   says. Queries and keys are divided by their root mean square where qk_norm is set, then rotated;
   values are copied. inverse_rms (batch, length, query_heads + kv_heads) is kept for the backward
   pass, 1 without qk_norm. */
ALWAYS_INLINE void split_typed(const Heads *shape, int dtype, const void *qkv, void *q, void *k,
                               void *v, float *inverse_rms, int threads) {
    const int width = shape->head_width, half = width / 2;
    const int all_heads = shape->query_heads + 2 * shape->kv_heads;
    PARALLEL_FOR((int64_t)shape->batch * shape->length * all_heads * width)
    for (int64_t token = 0; token < (int64_t)shape->batch * shape->length; token++) {
        const int64_t b = token / shape->length, t = token % shape->length;
        const float *cos = rotary_row(shape, shape->cos, b, t, 0);
        const float *sin = rotary_row(shape, shape->sin, b, t, half);
        for (int n = 0; n < all_heads; n++) {
            const void *x = element_address(qkv, dtype, (token * all_heads + n) * width);
            void *out = (void *)head_address(shape, dtype, b, t, n, q, k, v);
            if (n >= shape->query_heads + shape->kv_heads) {
                memcpy(out, x, width * (dtype == FLOAT32 ? 4 : 2));
                continue;
            }
            float scale = 1;
            if (shape->qk_norm) {
                vec_f32 sum_of_squares = {0};
                for (int i = 0; i < width; i += LANES) {
                    const vec_f32 a = load_elements(x, dtype, i, width);
                    sum_of_squares += a * a;
                }
                scale = 1 / sqrtf(sum_lanes(sum_of_squares) / width + shape->eps);
            }
            inverse_rms[token * (shape->query_heads + shape->kv_heads) + n] = scale;
            const void *x_second = element_address(x, dtype, half);
            void *out_second = (void *)element_address(out, dtype, half);
            for (int i = 0; i < half; i += LANES) {
                vec_f32 first = load_elements(x, dtype, i, half) * scale;
                vec_f32 second = load_elements(x_second, dtype, i, half) * scale;
                if (cos)
                    rotate_pairs(&first, &second, load_elements(cos, FLOAT32, i, half),
                                 load_elements(sin, FLOAT32, i, half));
                store_elements(out, dtype, i, half, first);
                store_elements(out_second, dtype, i, half, second);
            }
        }
    }
}

void split(const Heads *shape, int dtype, const void *qkv, void *q, void *k, void *v,
           float *inverse_rms, int threads) {
    DISPATCH_DTYPE(split_typed(shape, DTYPE, qkv, q, k, v, inverse_rms, threads))
}

/* grad_qkv, shaped as qkv, from the gradients of q, k and v: rotates back, then RMSNorm's gradient
   without a weight (norm_rows_backward_typed). Pass 0 sums mean(gradient * n); pass 1 writes.
   Without qk_norm only pass 1 runs, with a mean of 0. */
ALWAYS_INLINE void split_backward_typed(const Heads *shape, int dtype, const void *qkv,
                                        const float *inverse_rms, const void *grad_q,
                                        const void *grad_k, const void *grad_v, void *grad_qkv,
                                        int threads) {
    const int width = shape->head_width, half = width / 2;
    const int all_heads = shape->query_heads + 2 * shape->kv_heads;
    PARALLEL_FOR((int64_t)shape->batch * shape->length * all_heads * width)
    for (int64_t token = 0; token < (int64_t)shape->batch * shape->length; token++) {
        const int64_t b = token / shape->length, t = token % shape->length;
        const float *cos = rotary_row(shape, shape->cos, b, t, 0);
        const float *sin = rotary_row(shape, shape->sin, b, t, half);
        for (int n = 0; n < all_heads; n++) {
            const void *grad = head_address(shape, dtype, b, t, n, grad_q, grad_k, grad_v);
            const void *x = element_address(qkv, dtype, (token * all_heads + n) * width);
            void *out = (void *)element_address(grad_qkv, dtype, (token * all_heads + n) * width);
            if (n >= shape->query_heads + shape->kv_heads) {
                memcpy(out, grad, width * (dtype == FLOAT32 ? 4 : 2));
                continue;
            }
            const float scale = inverse_rms[token * (shape->query_heads + shape->kv_heads) + n];
            const void *x_second = element_address(x, dtype, half);
            const void *grad_second = element_address(grad, dtype, half);
            vec_f32 dot = {0};
            float mean = 0;
            for (int pass = shape->qk_norm ? 0 : 1; pass < 2; pass++) {
                for (int i = 0; i < half; i += LANES) {
                    vec_f32 first = load_elements(grad, dtype, i, half);
                    vec_f32 second = load_elements(grad_second, dtype, i, half);
                    if (cos)
                        rotate_pairs(&first, &second, load_elements(cos, FLOAT32, i, half),
                                     -load_elements(sin, FLOAT32, i, half));
                    const vec_f32 n_first = load_elements(x, dtype, i, half) * scale;
                    const vec_f32 n_second = load_elements(x_second, dtype, i, half) * scale;
                    if (pass == 0) {
                        dot += first * n_first + second * n_second;
                        continue;
                    }
                    store_elements(out, dtype, i, half, (first - n_first * mean) * scale);
                    store_elements((void *)element_address(out, dtype, half), dtype, i, half,
                                   (second - n_second * mean) * scale);
                }
                if (pass == 0) mean = sum_lanes(dot) / width;
            }
        }
    }
}

void split_backward(const Heads *shape, int dtype, const void *qkv, const float *inverse_rms,
                    const void *grad_q, const void *grad_k, const void *grad_v, void *grad_qkv,
                    int threads) {
    DISPATCH_DTYPE(split_backward_typed(shape, DTYPE, qkv, inverse_rms, grad_q, grad_k, grad_v,
                                        grad_qkv, threads))
}

/* ---- attention softmax ---------------------------------------------------------------------- */

/* scores (batch, query_heads, length, length), in place: query t gets the softmax of score_scale *
   score over the keys that it sees, first_visible[t] ... t, and 0 for all others. first_visible is
   (batch, length); null: every query sees from key 0 on. dropped_out, shaped as scores, gets the
   probabilities after dropout; null: there is none. */
ALWAYS_INLINE void softmax_typed(const Heads *shape, int dtype, void *scores, float score_scale,
                                 const int32_t *first_visible, void *dropped_out,
                                 const Dropout *dropout, int threads) {
    const int length = shape->length;
    PARALLEL_FOR((int64_t)shape->batch * shape->query_heads * length * length)
    for (int64_t r = 0; r < (int64_t)shape->batch * shape->query_heads * length; r++) {
        const int64_t t = r % length, b = r / length / shape->query_heads;
        const int begin = first_visible ? first_visible[b * length + t] : 0, end = t + 1;
        void *score_row = (void *)element_address(scores, dtype, r * length);
        void *dropped_row =
            dropped_out ? (void *)element_address(dropped_out, dtype, r * length) : 0;
        const vec_f32 zero = {0}, minus_infinity = zero - INFINITY;
        float row[length + LANES];
        vec_f32 lane_max = minus_infinity, total = zero;
        for (int i = begin / LANES * LANES; i < end; i += LANES) {
            const vec_i32 key = consecutive_from(i);
            const vec_f32 score = load_elements(score_row, dtype, i, length) * score_scale;
            const vec_f32 masked =
                select_lanes((key >= begin) & (key < end), score, minus_infinity);
            lane_max = select_lanes(masked > lane_max, masked, lane_max);
            store_vector(row + i, masked);
        }
        const float row_max = max_of_lanes(lane_max);
        for (int i = begin / LANES * LANES; i < end; i += LANES) {
            const vec_f32 score = load_vector(row + i);
            const vec_f32 e =
                select_lanes(score == minus_infinity, zero, exp_vector(score - row_max));
            total += e;
            store_vector(row + i, e);
        }
        const float inverse_sum = 1 / sum_lanes(total);
        for (int i = 0; i < length; i += LANES) {
            const vec_f32 p =
                i + LANES > begin && i < end ? load_vector(row + i) * inverse_sum : zero;
            store_elements(score_row, dtype, i, length, p);
            if (dropped_row)
                store_elements(dropped_row, dtype, i, length,
                               p * dropout_factors(dropout, r * length + i));
        }
    }
}

void softmax(const Heads *shape, int dtype, void *scores, float score_scale,
             const int32_t *first_visible, void *dropped_out, const Dropout *dropout,
             int threads) {
    DISPATCH_DTYPE(softmax_typed(shape, DTYPE, scores, score_scale, first_visible, dropped_out,
                                 dropout, threads))
}

/* probabilities: what softmax left in `scores`, before dropout. gradient holds the gradient of the
   probabilities after dropout; that of the scores before scaling replaces it. With d =
   dropout(gradient), it is score_scale * p * (d - sum(d * p)). */
ALWAYS_INLINE void softmax_backward_typed(const Heads *shape, int dtype, const void *probabilities,
                                          void *gradient, float score_scale,
                                          const Dropout *dropout, int threads) {
    const int length = shape->length;
    PARALLEL_FOR((int64_t)shape->batch * shape->query_heads * length * length)
    for (int64_t r = 0; r < (int64_t)shape->batch * shape->query_heads * length; r++) {
        const int end = r % length + 1;
        const void *p_row = element_address(probabilities, dtype, r * length);
        void *grad_row = (void *)element_address(gradient, dtype, r * length);
        vec_f32 lane_dot = {0};
        for (int i = 0; i < end; i += LANES) {
            vec_f32 d = load_elements(grad_row, dtype, i, length);
            if (dropout->drop_threshold) d *= dropout_factors(dropout, r * length + i);
            lane_dot += d * load_elements(p_row, dtype, i, length);
        }
        const float dot = sum_lanes(lane_dot);
        for (int i = 0; i < length; i += LANES) {
            vec_f32 d = {0};
            if (i < end) {
                d = load_elements(grad_row, dtype, i, length);
                if (dropout->drop_threshold) d *= dropout_factors(dropout, r * length + i);
                d = (d - dot) * load_elements(p_row, dtype, i, length) * score_scale;
            }
            store_elements(grad_row, dtype, i, length, d);
        }
    }
}

void softmax_backward(const Heads *shape, int dtype, const void *probabilities, void *gradient,
                      float score_scale, const Dropout *dropout, int threads) {
    DISPATCH_DTYPE(softmax_backward_typed(shape, DTYPE, probabilities, gradient, score_scale,
                                          dropout, threads))
}

/* ---- cross-entropy -------------------------------------------------------------------------- */

enum { ROW_PADDING = 16 }; /* cpu_kernels.SPARE: floats after a row that a vector may touch */

/* losses (rows,) = loss_weight (rows,) * -log p(target), and the logits (rows, vocab) become its
   gradient. p is the softmax over the ids low ... high - 1 that allowed_ids (rows, 2) gives; null:
   over all ids. softcap > 0: logits are first replaced by softcap * tanh(logit / softcap), with
   tanh(x) = 2 sigmoid(2x) - 1. workspace (REDUCTION_PARTS, 2, vocab + ROW_PADDING) holds, of each
   part's current row, the scores, which become its gradient, and softcap's derivative. */
ALWAYS_INLINE void nll_typed(int64_t rows, int vocab, int dtype, void *logits,
                             const int64_t *targets, const float *loss_weight,
                             const int64_t *allowed_ids, float softcap, float *losses,
                             float *workspace, int threads) {
    PARALLEL_FOR(rows * vocab)
    for (int part = 0; part < REDUCTION_PARTS; part++) {
        float *row = workspace + (int64_t)part * 2 * (vocab + ROW_PADDING);
        float *derivative = row + vocab + ROW_PADDING;
        for (int64_t r = rows * part / REDUCTION_PARTS; r < rows * (part + 1) / REDUCTION_PARTS;
             r++) {
            void *logit_row = (void *)element_address(logits, dtype, r * vocab);
            const int low = allowed_ids ? allowed_ids[2 * r] : 0;
            const int high = allowed_ids ? allowed_ids[2 * r + 1] : vocab;
            const vec_f32 zero = {0};
            vec_f32 lane_max = zero - INFINITY, total = zero;
            for (int i = 0; i < vocab; i += LANES) {
                const vec_i32 id = consecutive_from(i);
                vec_f32 v = load_elements(logit_row, dtype, i, vocab);
                if (softcap > 0) {
                    v = softcap * (2.0f * sigmoid_vector(2.0f / softcap * v) - 1.0f);
                    store_vector(derivative + i, 1.0f - v * v / (softcap * softcap));
                }
                v = select_lanes((id >= low) & (id < high), v, zero - INFINITY);
                lane_max = select_lanes(v > lane_max, v, lane_max);
                store_vector(row + i, v);
            }
            const float row_max = max_of_lanes(lane_max);
            const float target_score = row[targets[r]] - row_max;
            for (int i = 0; i < vocab; i += LANES) {
                const vec_f32 v = load_vector(row + i);
                const vec_f32 e =
                    select_lanes(v == zero - INFINITY, zero, exp_vector(v - row_max));
                total += e;
                store_vector(row + i, e);
            }
            const float exp_sum = sum_lanes(total), w = loss_weight[r];
            losses[r] = w * (logf(exp_sum) - target_score);
            for (int i = 0; i < vocab; i += LANES)
                store_vector(row + i, load_vector(row + i) * (w / exp_sum));
            row[targets[r]] -= w;
            for (int i = 0; i < vocab; i += LANES) {
                const vec_f32 grad = load_vector(row + i);
                store_elements(logit_row, dtype, i, vocab,
                               softcap > 0 ? grad * load_vector(derivative + i) : grad);
            }
        }
    }
}

void nll(int64_t rows, int vocab, int dtype, void *logits, const int64_t *targets,
         const float *loss_weight, const int64_t *allowed_ids, float softcap, float *losses,
         float *workspace, int threads) {
    DISPATCH_DTYPE(nll_typed(rows, vocab, DTYPE, logits, targets, loss_weight, allowed_ids, softcap,
                             losses, workspace, threads))
}

/* ---- optimiser ------------------------------------------------------------------------------ */

/* Visits each vector v of each matrix m, of `matrices` matrices of `elements` elements.
   PARALLEL_FOR divides the outer loop, over REDUCTION_PARTS parts of each matrix. */
#define FOR_EACH_VECTOR(matrices, elements)                                                  \
    for (int64_t part = 0; part < (matrices) * REDUCTION_PARTS; part++)                      \
        for (int64_t m = part / REDUCTION_PARTS, vectors = ((elements) + LANES - 1) / LANES, \
                     v = vectors * (part % REDUCTION_PARTS) / REDUCTION_PARTS;               \
             v < vectors * (part % REDUCTION_PARTS + 1) / REDUCTION_PARTS; v++)

/* Nesterov momentum, `nesterov` of core/train/muon.py: mean += (1 - momentum) * (gradient - mean),
   then update = gradient + momentum * (mean - gradient). Each argument has a pointer for each
   matrix, to `count` elements. */
ALWAYS_INLINE void nesterov_typed(int64_t matrices, int64_t count, int dtype,
                                  const float *const *gradients, float *const *means,
                                  float momentum, void *const *updates, int threads) {
    PARALLEL_FOR(matrices * count)
    FOR_EACH_VECTOR(matrices, count) {
        const int64_t i = v * LANES;
        const vec_f32 gradient = load_elements(gradients[m], FLOAT32, i, count);
        const vec_f32 old_mean = load_elements(means[m], FLOAT32, i, count);
        const vec_f32 mean = old_mean + (gradient - old_mean) * (1 - momentum);
        store_elements(means[m], FLOAT32, i, count, mean);
        store_elements(updates[m], dtype, i, count, gradient + (mean - gradient) * momentum);
    }
}

void nesterov(int64_t matrices, int64_t count, int dtype, const float *const *gradients,
              float *const *means, float momentum, void *const *updates, int threads) {
    DISPATCH_DTYPE(
        nesterov_typed(matrices, count, DTYPE, gradients, means, momentum, updates, threads))
}

/* weight = weight * weight_factor + update * update_factor, `moved_by` of core/train/muon.py:
   weight decay and the optimiser's step. */
ALWAYS_INLINE void move_typed(int64_t matrices, int64_t count, int dtype, float *const *weights,
                              const void *const *updates, float weight_factor, float update_factor,
                              int threads) {
    PARALLEL_FOR(matrices * count)
    FOR_EACH_VECTOR(matrices, count) {
        const int64_t i = v * LANES;
        store_elements(weights[m], FLOAT32, i, count,
                       load_elements(weights[m], FLOAT32, i, count) * weight_factor +
                           load_elements(updates[m], dtype, i, count) * update_factor);
    }
}

void move(int64_t matrices, int64_t count, int dtype, float *const *weights,
          const void *const *updates, float weight_factor, float update_factor, int threads) {
    DISPATCH_DTYPE(move_typed(matrices, count, DTYPE, weights, updates, weight_factor,
                              update_factor, threads))
}

enum { VECTORS_PER_FLOAT_SUM = 256 }; /* summed in float32 before they are added in float64 */

/* sums (tensor_count, REDUCTION_PARTS): partial sums of squares of each of `tensor_count` tensors,
   of counts[m] elements. Sums of few vectors are float32 and their total is float64, so that small
   squares are not lost in a large sum. The loop is parallel if there is more than one tensor. */
void squares(int64_t tensor_count, const float *const *tensors, const int64_t *counts, double *sums,
             int threads) {
    PARALLEL_FOR(tensor_count * MAX_SERIAL_ELEMENTS)
    for (int64_t part = 0; part < tensor_count * REDUCTION_PARTS; part++) {
        const int64_t m = part / REDUCTION_PARTS, part_of_tensor = part % REDUCTION_PARTS;
        const int64_t count = counts[m], vectors = (count + LANES - 1) / LANES;
        double total = 0;
        for (int64_t v = vectors * part_of_tensor / REDUCTION_PARTS;
             v < vectors * (part_of_tensor + 1) / REDUCTION_PARTS;) {
            vec_f32 float_sum = {0};
            const int64_t part_end = vectors * (part_of_tensor + 1) / REDUCTION_PARTS;
            const int64_t end =
                v + VECTORS_PER_FLOAT_SUM < part_end ? v + VECTORS_PER_FLOAT_SUM : part_end;
            for (; v < end; v++) {
                const vec_f32 x = load_elements(tensors[m], FLOAT32, v * LANES, count);
                float_sum += x * x;
            }
            total += sum_lanes(float_sum);
        }
        sums[part] = total;
    }
}

/* For the size of arrays (REDUCTION_PARTS, ...) that callers allocate. */
int shares(void) { return REDUCTION_PARTS; }
