/* Matrix products in bfloat16 by AMX tiles, on processors that have them (HAS_TILES).

   `accumulate` adds a product of MACRO_TILE x MACRO_TILE outputs. The left operand is row-major
   bf16. The right operand (inputs, columns) is packed as AMX takes it: (columns / TILE, inputs / 2,
   TILE) words of 32 bits. A word holds two neighbouring inputs of a column, 2p in
   its low half and 2p + 1 in its high half. TILE columns, n ... n + TILE - 1, make a panel: it
   begins at word n * (inputs / 2), and its (even) input k at WORDS_PER_INPUT * k after that. */

#ifndef TILES_H
#define TILES_H

#include "simd.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define HAS_TILES
#include <immintrin.h>

/* TILE: rows of a tile, of 64 bytes: TILE float32, or TILE_INPUTS bf16. LANES is 16 here too. */
enum { TILE = 16, TILE_INPUTS = 32, WORDS_PER_INPUT = TILE / 2 };
enum { MACRO_TILE = 2 * TILE }; /* native_calls.MACRO_TILE: outputs of 2 x 2 accumulator tiles */
typedef uint16_t bf16;

/* The operand of LDTILECFG: palette 1 in byte 0; for each of 8 tiles the bytes of a row, from byte
   16 on, in 2 bytes each; the rows of each, from byte 48 on. */
static const uint8_t TILE_CONFIG[64] __attribute__((aligned(64))) = {
    [0] = 1, [16] = 64, [18] = 64, [20] = 64, [22] = 64, [24] = 64, [26] = 64, [28] = 64, [30] = 64,
    [48] = 16, [49] = 16, [50] = 16, [51] = 16, [52] = 16, [53] = 16, [54] = 16, [55] = 16};

/* Each thread needs this before it uses tiles, and again after _tile_release. */
static void configure_tiles(void) { _tile_loadconfig(TILE_CONFIG); }

static int pad_to_macro_tile(int n) { return (n + MACRO_TILE - 1) / MACRO_TILE * MACRO_TILE; }

/* Tiles 0 ... 3 += a (MACRO_TILE, inputs), rows row_stride apart, times two panels of b. Tiles 0, 1
   hold the upper TILE rows of the product, tiles 2, 3 the lower ones. Tiles 4, 5 hold rows of a;
   tiles 6, 7 hold b. */
ALWAYS_INLINE void accumulate(int inputs, const bf16 *a, int64_t row_stride, const uint32_t *panel0,
                              const uint32_t *panel1) {
    const bf16 *lower = a + TILE * row_stride;
    for (int k = 0; k < inputs; k += TILE_INPUTS) {
        _tile_loadd(4, a + k, 2 * row_stride);
        _tile_loadd(6, panel0 + WORDS_PER_INPUT * k, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, panel1 + WORDS_PER_INPUT * k, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, lower + k, 2 * row_stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

static inline void zero_accumulators(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* c (MACRO_TILE, MACRO_TILE), rows row_stride floats apart. */
static inline void store_accumulators(float *c, int64_t row_stride) {
    _tile_stored(0, c, 4 * row_stride);
    _tile_stored(1, c + TILE, 4 * row_stride);
    _tile_stored(2, c + TILE * row_stride, 4 * row_stride);
    _tile_stored(3, c + TILE * row_stride + TILE, 4 * row_stride);
}

static inline void load_accumulators(const float *c, int64_t row_stride) {
    _tile_loadd(0, c, 4 * row_stride);
    _tile_loadd(1, c + TILE, 4 * row_stride);
    _tile_loadd(2, c + TILE * row_stride, 4 * row_stride);
    _tile_loadd(3, c + TILE * row_stride + TILE, 4 * row_stride);
}

/* c (MACRO_TILE, MACRO_TILE) = a (MACRO_TILE, inputs) times columns n ... n + MACRO_TILE - 1 of the
   packed b. */
ALWAYS_INLINE void multiply_macro_tile(int inputs, const bf16 *a, int64_t a_stride,
                                       const uint32_t *b, int n, float *c, int64_t c_stride) {
    const uint32_t *panel = b + (int64_t)n * (inputs / 2);
    zero_accumulators();
    accumulate(inputs, a, a_stride, panel, panel + WORDS_PER_INPUT * (int64_t)inputs);
    store_accumulators(c, c_stride);
}

#endif
#endif
