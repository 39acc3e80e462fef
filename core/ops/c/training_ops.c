/* What a training step does between its matrix products, each in one pass over memory, forward and
   backward: the functions of fused.py, their plain forms, say what each one works out.

   The stream is float32; activations are of a `kind`, float32 or bfloat16, worked out in float32.
   A row is done by one thread and what is summed over rows is summed in SHARES parts, so that no
   bit depends on how many threads there are. */

#include "training_ops.h"

/* out = x + kept * y, x a float32 stream or none. */
INLINE void add_(int64_t count, int kind, const float *x, const void *y, void *out, int out_kind,
                 const Drop *drop, int threads) {
    const int64_t vectors = (count + LANES - 1) / LANES;
    PARALLEL(count)
    for (int64_t v = 0; v < vectors; v++) {
        const int64_t i = v * LANES;
        vec total = get(y, kind, i, count);
        if (drop->below) total *= kept(drop, i);
        if (x) total += get(x, FLOAT32, i, count);
        put(out, out_kind, i, count, total);
    }
}

void add(int64_t count, int kind, const float *x, const void *y, float *out, const Drop *drop,
         int threads) {
    KINDS(add_(count, KIND, x, y, out, FLOAT32, drop, threads))
}

void add_backward(int64_t count, int kind, const float *gradient, void *to_y, const Drop *drop,
                  int threads) {
    KINDS(add_(count, FLOAT32, 0, gradient, to_y, KIND, drop, threads))
}

/* ---- norm ----------------------------------------------------------------------------------- */

INLINE void norm_(int64_t rows, int width, int kind, const float *x, const float *weight, float eps,
                  void *out, float *scales, int threads) {
    PARALLEL(rows * width)
    for (int64_t r = 0; r < rows; r++) {
        const float *from = x + r * width;
        void *to = (void *)at(out, kind, r * width);
        vec square = {0};
        for (int i = 0; i < width; i += LANES) {
            const vec v = get(from, FLOAT32, i, width);
            square += v * v;
        }
        const float scale = scales[r] = 1 / sqrtf(sum(square) / width + eps);
        for (int i = 0; i < width; i += LANES)
            put(to, kind, i, width,
                get(from, FLOAT32, i, width) * scale * get(weight, FLOAT32, i, width));
    }
}

void norm(int64_t rows, int width, int kind, const float *x, const float *weight, float eps,
          void *out, float *scales, int threads) {
    KINDS(norm_(rows, width, KIND, x, weight, eps, out, scales, threads))
}

/* to_x gets what comes by the norm and, where there is such, what comes beside it; part (width):
   what the rows add to the weight's gradient. */
INLINE void norm_rows_backward_(int64_t rows, int width, int kind, const float *x,
                                const float *weight, const float *scales, const void *gradient,
                                const float *beside, float *to_x, float *part) {
    for (int64_t r = 0; r < rows; r++) {
        const float *from = x + r * width, scale = scales[r];
        const void *g = at(gradient, kind, r * width);
        vec along = {0};
        for (int i = 0; i < width; i += LANES) {
            const vec n = get(from, FLOAT32, i, width) * scale, h = get(g, kind, i, width) * n;
            along += h * get(weight, FLOAT32, i, width);
            put(part, FLOAT32, i, width, get(part, FLOAT32, i, width) + h);
        }
        const float mean = sum(along) / width;
        for (int i = 0; i < width; i += LANES) {
            const vec n = get(from, FLOAT32, i, width) * scale;
            const vec h = get(g, kind, i, width) * get(weight, FLOAT32, i, width);
            vec d = (h - n * mean) * scale;
            if (beside) d += get(beside + r * width, FLOAT32, i, width);
            put(to_x + r * width, FLOAT32, i, width, d);
        }
    }
}

void norm_rows_backward(int64_t rows, int width, int kind, const float *x, const float *weight,
                        const float *scales, const void *gradient, const float *beside,
                        float *to_x, float *part) {
    KINDS(norm_rows_backward_(rows, width, KIND, x, weight, scales, gradient, beside, to_x, part))
}

/* parts (SHARES, width): of each share of the rows, the weight's gradient. */
void norm_backward(int64_t rows, int width, int kind, const float *x, const float *weight,
                   const float *scales, const void *gradient, const float *beside, float *to_x,
                   float *parts, int threads) {
    PARALLEL(rows * width)
    for (int share = 0; share < SHARES; share++) {
        const int64_t from = rows * share / SHARES, i = from * width;
        float *part = parts + share * width;
        memset(part, 0, width * sizeof *part);
        norm_rows_backward(rows * (share + 1) / SHARES - from, width, kind, x + i, weight,
                           scales + from, at(gradient, kind, i), beside ? beside + i : 0, to_x + i,
                           part);
    }
}

/* ---- relu squared --------------------------------------------------------------------------- */

INLINE void relu2_(int64_t count, int kind, const void *x, const void *gradient, void *out,
                   int threads) {
    const int64_t vectors = (count + LANES - 1) / LANES;
    const vec zero = {0};
    PARALLEL(count)
    for (int64_t v = 0; v < vectors; v++) {
        const int64_t i = v * LANES;
        const vec a = get(x, kind, i, count), positive = choose(a > zero, a, a * zero);
        put(out, kind, i, count,
            positive * (gradient ? 2.0f * get(gradient, kind, i, count) : positive));
    }
}

/* Forward where there is no gradient. */
void relu2(int64_t count, int kind, const void *x, const void *gradient, void *out, int threads) {
    KINDS(relu2_(count, KIND, x, gradient, out, threads))
}

/* ---- attention ------------------------------------------------------------------------------ */

/* Half of a head and the other half: turned by the angle, or back. */
INLINE void turn(vec *a, vec *b, vec cos, vec sin) {
    const vec first = *a * cos - *b * sin;
    *b = *b * cos + *a * sin;
    *a = first;
}

/* The cosines or sines of position t of row b, from the i-th on. */
INLINE const float *angles(const Heads *h, const float *table, int64_t b, int64_t t, int i) {
    return table ? table + b * h->turned + t * h->width + i : 0;
}

/* Where the n-th head of position t of row b lies among queries, keys and values. */
INLINE const void *place(const Heads *h, int kind, int64_t b, int64_t t, int n, const void *q,
                         const void *k, const void *v) {
    const int query = n < h->heads, key = n < h->heads + h->groups;
    const int heads = query ? h->heads : h->groups;
    const int head = query ? n : n - h->heads - (key ? 0 : h->groups);
    return at(query ? q : key ? k : v, kind, ((b * heads + head) * h->length + t) * h->width);
}

/* (B, T, heads + 2 groups, width) -> queries (B, heads, T, width), keys and values (B, groups, T,
   width); queries and keys normalised and turned. scales (B, T, heads + groups). */
INLINE void split_(const Heads *h, int kind, const void *qkv, void *q, void *k, void *v,
                   float *scales, int threads) {
    const int width = h->width, half = width / 2, all = h->heads + 2 * h->groups;
    PARALLEL((int64_t)h->batch * h->length * all * width)
    for (int64_t row = 0; row < (int64_t)h->batch * h->length; row++) {
        const int64_t b = row / h->length, t = row % h->length;
        const float *cos = angles(h, h->cos, b, t, 0), *sin = angles(h, h->sin, b, t, half);
        for (int n = 0; n < all; n++) {
            const void *x = at(qkv, kind, (row * all + n) * width);
            void *out = (void *)place(h, kind, b, t, n, q, k, v);
            if (n >= h->heads + h->groups) {
                memcpy(out, x, width * (kind == FLOAT32 ? 4 : 2));
                continue;
            }
            float scale = 1;
            if (h->normed) {
                vec square = {0};
                for (int i = 0; i < width; i += LANES) {
                    const vec a = get(x, kind, i, width);
                    square += a * a;
                }
                scale = 1 / sqrtf(sum(square) / width + h->eps);
            }
            scales[row * (h->heads + h->groups) + n] = scale;
            const void *x2 = at(x, kind, half);
            void *out2 = (void *)at(out, kind, half);
            for (int i = 0; i < half; i += LANES) {
                vec a = get(x, kind, i, half) * scale, c = get(x2, kind, i, half) * scale;
                if (cos) turn(&a, &c, get(cos, FLOAT32, i, half), get(sin, FLOAT32, i, half));
                put(out, kind, i, half, a);
                put(out2, kind, i, half, c);
            }
        }
    }
}

void split(const Heads *h, int kind, const void *qkv, void *q, void *k, void *v, float *scales,
           int threads) {
    KINDS(split_(h, KIND, qkv, q, k, v, scales, threads))
}

/* From the gradients of q, k and v that of qkv. */
INLINE void split_backward_(const Heads *h, int kind, const void *qkv, const float *scales,
                            const void *q, const void *k, const void *v, void *out, int threads) {
    const int width = h->width, half = width / 2, all = h->heads + 2 * h->groups;
    PARALLEL((int64_t)h->batch * h->length * all * width)
    for (int64_t row = 0; row < (int64_t)h->batch * h->length; row++) {
        const int64_t b = row / h->length, t = row % h->length;
        const float *cos = angles(h, h->cos, b, t, 0), *sin = angles(h, h->sin, b, t, half);
        for (int n = 0; n < all; n++) {
            const void *g = place(h, kind, b, t, n, q, k, v);
            const void *x = at(qkv, kind, (row * all + n) * width);
            void *to = (void *)at(out, kind, (row * all + n) * width);
            if (n >= h->heads + h->groups) {
                memcpy(to, g, width * (kind == FLOAT32 ? 4 : 2));
                continue;
            }
            const float scale = scales[row * (h->heads + h->groups) + n];
            const void *x2 = at(x, kind, half), *g2 = at(g, kind, half);
            vec along = {0};
            float mean = 0;
            for (int pass = h->normed ? 0 : 1; pass < 2; pass++) {
                for (int i = 0; i < half; i += LANES) {
                    vec a = get(g, kind, i, half), c = get(g2, kind, i, half);
                    if (cos) turn(&a, &c, get(cos, FLOAT32, i, half), -get(sin, FLOAT32, i, half));
                    const vec n1 = get(x, kind, i, half) * scale;
                    const vec n2 = get(x2, kind, i, half) * scale;
                    if (pass == 0) {
                        along += a * n1 + c * n2;
                        continue;
                    }
                    put(to, kind, i, half, (a - n1 * mean) * scale);
                    put((void *)at(to, kind, half), kind, i, half, (c - n2 * mean) * scale);
                }
                if (pass == 0) mean = sum(along) / width;
            }
        }
    }
}

void split_backward(const Heads *h, int kind, const void *qkv, const float *scales, const void *q,
                    const void *k, const void *v, void *out, int threads) {
    KINDS(split_backward_(h, KIND, qkv, scales, q, k, v, out, threads))
}

/* scores (B, heads, T, T), in place: softmax of `factor` times each over what its position sees,
   first[t] ... t (first: (B, T), or none for all from 0), 0 elsewhere. Where numbers are dropped,
   `dropped` gets what is left. */
INLINE void softmax_(const Heads *h, int kind, void *scores, float factor, const int32_t *first,
                     void *dropped, const Drop *drop, int threads) {
    const int length = h->length;
    PARALLEL((int64_t)h->batch * h->heads * length * length)
    for (int64_t r = 0; r < (int64_t)h->batch * h->heads * length; r++) {
        const int64_t t = r % length, b = r / length / h->heads;
        const int begin = first ? first[b * length + t] : 0, end = t + 1;
        void *p = (void *)at(scores, kind, r * length);
        void *left = dropped ? (void *)at(dropped, kind, r * length) : 0;
        const vec zero = {0}, nothing = zero - INFINITY;
        float row[length + LANES];
        vec most = nothing, total = zero;
        for (int i = begin / LANES * LANES; i < end; i += LANES) {
            const ints n = counted(i);
            const vec s = get(p, kind, i, length) * factor;
            const vec seen = choose((n >= begin) & (n < end), s, nothing);
            most = choose(seen > most, seen, most);
            store(row + i, seen);
        }
        const float top = largest(most);
        for (int i = begin / LANES * LANES; i < end; i += LANES) {
            const vec s = load(row + i), e = choose(s == nothing, zero, exponential(s - top));
            total += e;
            store(row + i, e);
        }
        const float share = 1 / sum(total);
        for (int i = 0; i < length; i += LANES) {
            const vec e = i + LANES > begin && i < end ? load(row + i) * share : zero;
            put(p, kind, i, length, e);
            if (left) put(left, kind, i, length, e * kept(drop, r * length + i));
        }
    }
}

void softmax(const Heads *h, int kind, void *scores, float factor, const int32_t *first,
             void *dropped, const Drop *drop, int threads) {
    KINDS(softmax_(h, KIND, scores, factor, first, dropped, drop, threads))
}

/* p: as softmax left the scores; gradient, in place: of what the values were multiplied by to that
   of the scores. */
INLINE void softmax_backward_(const Heads *h, int kind, const void *p, void *gradient, float factor,
                              const Drop *drop, int threads) {
    const int length = h->length;
    PARALLEL((int64_t)h->batch * h->heads * length * length)
    for (int64_t r = 0; r < (int64_t)h->batch * h->heads * length; r++) {
        const int end = r % length + 1;
        const void *mine = at(p, kind, r * length);
        void *g = (void *)at(gradient, kind, r * length);
        vec along = {0};
        for (int i = 0; i < end; i += LANES) {
            vec d = get(g, kind, i, length);
            if (drop->below) d *= kept(drop, r * length + i);
            along += d * get(mine, kind, i, length);
        }
        const float mean = sum(along);
        for (int i = 0; i < length; i += LANES) {
            vec d = {0};
            if (i < end) {
                d = get(g, kind, i, length);
                if (drop->below) d *= kept(drop, r * length + i);
                d = (d - mean) * get(mine, kind, i, length) * factor;
            }
            put(g, kind, i, length, d);
        }
    }
}

void softmax_backward(const Heads *h, int kind, const void *p, void *gradient, float factor,
                      const Drop *drop, int threads) {
    KINDS(softmax_backward_(h, KIND, p, gradient, factor, drop, threads))
}

/* ---- loss ----------------------------------------------------------------------------------- */

/* logits (rows, vocab), in place to their gradient: of weight * -log p(target) over the ids legal
   (rows, 2), low ... high - 1, or none for all. losses (rows). spare: (SHARES, 2, vocab + 16), each
   row's scores and softcap's slopes. */
INLINE void nll_(int64_t rows, int vocab, int kind, void *logits, const int64_t *targets,
                 const float *weight, const int64_t *legal, float softcap, float *losses,
                 float *spare, int threads) {
    PARALLEL(rows * vocab)
    for (int share = 0; share < SHARES; share++) {
        float *row = spare + (int64_t)share * 2 * (vocab + 16), *slope = row + vocab + 16;
        for (int64_t r = rows * share / SHARES; r < rows * (share + 1) / SHARES; r++) {
            void *x = (void *)at(logits, kind, r * vocab);
            const int low = legal ? legal[2 * r] : 0, high = legal ? legal[2 * r + 1] : vocab;
            const vec zero = {0};
            vec most = zero - INFINITY, total = zero;
            for (int i = 0; i < vocab; i += LANES) {
                const ints n = counted(i);
                vec v = get(x, kind, i, vocab);
                if (softcap > 0) {
                    v = softcap * (2.0f * sigmoid(2.0f / softcap * v) - 1.0f);
                    store(slope + i, 1.0f - v * v / (softcap * softcap));
                }
                v = choose((n >= low) & (n < high), v, zero - INFINITY);
                most = choose(v > most, v, most);
                store(row + i, v);
            }
            const float top = largest(most), wanted = row[targets[r]] - top;
            for (int i = 0; i < vocab; i += LANES) {
                const vec v = load(row + i);
                const vec e = choose(v == zero - INFINITY, zero, exponential(v - top));
                total += e;
                store(row + i, e);
            }
            const float mass = sum(total), w = weight[r];
            losses[r] = w * (logf(mass) - wanted);
            for (int i = 0; i < vocab; i += LANES) store(row + i, load(row + i) * (w / mass));
            row[targets[r]] -= w;
            for (int i = 0; i < vocab; i += LANES) {
                const vec p = load(row + i);
                put(x, kind, i, vocab, softcap > 0 ? p * load(slope + i) : p);
            }
        }
    }
}

void nll(int64_t rows, int vocab, int kind, void *logits, const int64_t *targets,
         const float *weight, const int64_t *legal, float softcap, float *losses, float *spare,
         int threads) {
    KINDS(nll_(rows, vocab, KIND, logits, targets, weight, legal, softcap, losses, spare, threads))
}

/* ---- optimiser ------------------------------------------------------------------------------ */

/* Each of `many` matrices in SHARES parts: vector `v` of matrix `m`. */
#define EACH_VECTOR(many, count)                                                          \
    for (int64_t part = 0; part < (many) * SHARES; part++)                                \
        for (int64_t m = part / SHARES, vectors = ((count) + LANES - 1) / LANES,          \
                     v = vectors * (part % SHARES) / SHARES;                              \
             v < vectors * (part % SHARES + 1) / SHARES; v++)

INLINE void nesterov_(int64_t many, int64_t count, int kind, const float *const *gradients,
                      float *const *means, float momentum, void *const *outs, int threads) {
    PARALLEL(many * count)
    EACH_VECTOR(many, count) {
        const int64_t i = v * LANES;
        const vec g = get(gradients[m], FLOAT32, i, count), old = get(means[m], FLOAT32, i, count);
        const vec mean = old + (g - old) * (1 - momentum);
        put(means[m], FLOAT32, i, count, mean);
        put(outs[m], kind, i, count, g + (mean - g) * momentum);
    }
}

/* `many` matrices of `count` numbers each. */
void nesterov(int64_t many, int64_t count, int kind, const float *const *gradients,
              float *const *means, float momentum, void *const *outs, int threads) {
    KINDS(nesterov_(many, count, KIND, gradients, means, momentum, outs, threads))
}

INLINE void move_(int64_t many, int64_t count, int kind, float *const *weights,
                  const void *const *updates, float keep, float by, int threads) {
    PARALLEL(many * count)
    EACH_VECTOR(many, count) {
        const int64_t i = v * LANES;
        put(weights[m], FLOAT32, i, count,
            get(weights[m], FLOAT32, i, count) * keep + get(updates[m], kind, i, count) * by);
    }
}

void move(int64_t many, int64_t count, int kind, float *const *weights, const void *const *updates,
          float keep, float by, int threads) {
    KINDS(move_(many, count, KIND, weights, updates, keep, by, threads))
}

/* sums (many, SHARES): squares of the numbers of each of `many` tensors, in parts. */
void squares(int64_t many, const float *const *tensors, const int64_t *counts, double *sums,
             int threads) {
    PARALLEL(many * ALONE)
    for (int64_t part = 0; part < many * SHARES; part++) {
        const int64_t m = part / SHARES, share = part % SHARES, count = counts[m];
        const int64_t vectors = (count + LANES - 1) / LANES;
        double total = 0;
        for (int64_t v = vectors * share / SHARES; v < vectors * (share + 1) / SHARES;) {
            vec some = {0}; /* of a few at a time, so that no small one is lost in a large sum */
            const int64_t until = vectors * (share + 1) / SHARES;
            const int64_t end = v + 256 < until ? v + 256 : until;
            for (; v < end; v++) {
                const vec x = get(tensors[m], FLOAT32, v * LANES, count);
                some += x * x;
            }
            total += sum(some);
        }
        sums[part] = total;
    }
}

int shares(void) { return SHARES; }
