/* One token for every row of a cache, through all layers, on a CPU.
 *
 * The numbers of Transformer.step up to rounding. There a step of few rows is a hundred small
 * operations, each with a start of its own; here it is one call, and nothing is read twice.
 * Compiled twice and called by fused_step.py: `number`, the type of weights, keys, values and what
 * is multiplied, is float32, or bfloat16 with -DBFLOAT16 where the processor multiplies it. Sums
 * are float32 in both. Axes: M rows, N outputs, K inputs of a product, D width, H heads, C slots of
 * a row's cache, V logits.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#define ROWS 12 /* rows whose sums fill the registers, two vectors each */
#else
#define LANES 8
#define ROWS 6
#endif
#define PANEL (2 * LANES) /* outputs that lie together in a packed matrix */
#define MOST_SIZE 512 /* of a head */
#define INLINE static inline __attribute__((always_inline))
typedef float vector __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t mask __attribute__((vector_size(LANES * 4), aligned(4)));
enum { SET, ADD, RELU }; /* what becomes of a product: out = y, out += y, out = max(y, 0) */

#ifdef BFLOAT16
#ifndef __AVX512BF16__
#error "this processor does not multiply bfloat16"
#endif
#include <immintrin.h>
#define DEPTH 2 /* inputs that one instruction multiplies and sums */
typedef uint16_t number;
typedef __m512bh weights; /* of LANES outputs and DEPTH inputs */
typedef uint16_t halves __attribute__((vector_size(LANES * 2), aligned(2)));
typedef uint32_t words __attribute__((vector_size(LANES * 4)));

INLINE weights load(const number *w) { return (weights)_mm512_loadu_si512(w); }

INLINE vector multiply_add(const number *x, weights w, vector sum) {
    int32_t pair;
    memcpy(&pair, x, sizeof pair);
    return (vector)_mm512_dpbf16_ps((__m512)sum, w, (weights)_mm512_set1_epi32(pair));
}

/* The nearest bfloat16, of two the even one. */
INLINE number narrow(float x) {
    const union { float value; uint32_t bits; } all = {x};
    const uint32_t nearest = (all.bits + 0x7fff + (all.bits >> 16 & 1)) >> 16;
    return x == x ? nearest : 0x7fc0;
}

INLINE float widen(number x) {
    const union { uint32_t bits; float value; } all = {(uint32_t)x << 16};
    return all.value;
}

INLINE vector widen_all(const number *x) {
    return (vector)(__builtin_convertvector(*(const halves *)x, words) << 16);
}
#else
#define DEPTH 1
typedef float number;
typedef vector weights;

INLINE weights load(const number *w) { return *(const vector *)w; }
INLINE vector multiply_add(const number *x, weights w, vector sum) { return *x * w + sum; }
INLINE number narrow(float x) { return x; }
INLINE float widen(number x) { return x; }
INLINE vector widen_all(const number *x) { return *(const vector *)x; }
#endif

static int64_t panels_of(int64_t N) { return (N + PANEL - 1) / PANEL; }

/* Numbers that a packed [N, K] matrix takes. */
int64_t packed_size(int64_t N, int64_t K) { return panels_of(N) * PANEL * K; }

/* w [N, K] as [panels, K / DEPTH, PANEL, DEPTH]; zeros behind the last output. */
void pack(const number *w, number *packed, int64_t N, int64_t K) {
    for (int64_t n = 0; n < panels_of(N) * PANEL; n++)
        for (int64_t k = 0; k < K; k++)
            packed[((n / PANEL * K + k / DEPTH * DEPTH) * PANEL) + n % PANEL * DEPTH + k % DEPTH] =
                n < N ? w[n * K + k] : 0;
}

/* A vector of outputs, of which the first `count` are real, in their place. */
INLINE void put(vector y, void *out, int64_t at, int64_t count, int how) {
    float *sums = (float *)out + at;
    if (how != RELU && count >= LANES) {
        *(vector *)sums = how == ADD ? *(vector *)sums + y : y;
        return;
    }
    for (int64_t lane = 0; lane < (count < LANES ? count : LANES); lane++) {
        if (how == RELU) ((number *)out)[at + lane] = narrow(y[lane] < 0 ? 0 : y[lane]);
        else sums[lane] = how == ADD ? sums[lane] + y[lane] : y[lane];
    }
}

/* MB rows of x times PB panels of w, of whose outputs, from n on, the first `count` are real.
 * Meanwhile a part of the next panels is fetched, `stride` bytes an input, if there is a `soon`. */
INLINE void tile(const number *x, const number *w, void *out, int64_t K, int64_t N, int64_t n,
                 int64_t count, int how, const char *soon, int64_t stride, int MB, int PB) {
    vector sum[ROWS][4];
    for (int m = 0; m < MB; m++)
        for (int p = 0; p < 2 * PB; p++) sum[m][p] = (vector){0};
    for (int64_t k = 0; k < K; k += DEPTH) {
        weights outputs[4];
        if (soon) __builtin_prefetch(soon + k * stride, 0, 2);
        for (int p = 0; p < 2 * PB; p++)
            outputs[p] = load(w + (p / 2 * K + k) * PANEL + p % 2 * LANES * DEPTH);
        for (int m = 0; m < MB; m++)
            for (int p = 0; p < 2 * PB; p++)
                sum[m][p] = multiply_add(x + m * K + k, outputs[p], sum[m][p]);
    }
    for (int m = 0; m < MB; m++)
        for (int p = 0; p < 2 * PB; p++)
            put(sum[m][p], out, m * N + n + p * LANES, count - p * LANES, how);
}

/* A tile of so many rows; two panels only of few. */
INLINE void tile_of(int rows, const number *x, const number *w, void *out, int64_t K, int64_t N,
                    int64_t n, int64_t count, int how, const char *soon, int64_t stride, int PB) {
#define CASE(MB) case MB: tile(x, w, out, K, N, n, count, how, soon, stride, MB, PB); break;
    switch (rows) {
        CASE(1) CASE(2) CASE(3)
#if ROWS > 6
        CASE(4) CASE(5) CASE(6)
#endif
    }
    if (PB == 1)
        switch (rows) {
#if ROWS > 6
            CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#else
            CASE(4) CASE(5) CASE(6)
#endif
        }
#undef CASE
}

/* x [M, K] times packed w [N, K] into out [M, N]: float32, or numbers after RELU. The threads of a
 * team share the panels. */
static void product(const number *x, const number *w, void *out, int64_t M, int64_t N, int64_t K,
                    int how) {
    const int64_t step = how == RELU ? sizeof(number) : sizeof(float), tiles = (M + ROWS - 1) / ROWS;
    const int PB = M <= ROWS / 2 ? 2 : 1; /* few rows take two panels at once, or sums would wait */
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < panels_of(N); panel += PB) {
        const int64_t n = panel * PANEL, stride = PB * PANEL * sizeof(number) / tiles;
        for (int64_t part = 0; part < tiles; part++) {
            const int64_t m = part * M / tiles, rows = (part + 1) * M / tiles - m;
            char *row = (char *)out + m * N * step;
            /* With one tile memory is read all the time, with many there is time enough. */
            const char *soon = tiles == 1 || tiles > 3
                ? 0 : (const char *)(w + (n + PB * PANEL) * K) + part * K * stride;
#define TILE(soon, PB) \
    tile_of(rows, x + m * K, w + n * K, row, K, N, n, N - n, how, soon, stride, PB)
            if (PB == 2 && N - n > PANEL) TILE(0, 2);
            else if (soon) TILE(soon, 1);
            else TILE(0, 1); /* a loop of its own: asking costs a register */
#undef TILE
        }
    }
}

/* LayerNorm without parameters, eps 1e-5. */
static void norm(const float *x, number *out, int64_t M, int64_t D) {
#pragma omp for schedule(static)
    for (int64_t m = 0; m < M; m++) {
        const float *from = x + m * D;
        float mean = 0, square = 0;
#pragma omp simd reduction(+ : mean)
        for (int64_t d = 0; d < D; d++) mean += from[d];
        mean /= D;
#pragma omp simd reduction(+ : square)
        for (int64_t d = 0; d < D; d++) square += (from[d] - mean) * (from[d] - mean);
        const float share = 1.0f / sqrtf(square / D + 1e-5f);
#pragma omp simd
        for (int64_t d = 0; d < D; d++) out[m * D + d] = narrow((from[d] - mean) * share);
    }
}

/* e^x for x <= 0: 2^n times a polynomial on [-ln2 / 2, ln2 / 2]; the least is e^-87. */
INLINE float exp_negative(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float n = __builtin_rintf(x * 1.44269504f);
    const float r = x - n * 0.693359375f + n * 2.12194440e-4f; /* ln2 in two parts */
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const union { int32_t bits; float power; } two = {((int32_t)n + 127) << 23};
    return p * two.power;
}

/* The sum of all lanes, by halves: one after the other each would wait for the last. */
INLINE float sum_of(vector all) {
    typedef float eight __attribute__((vector_size(32)));
    typedef float four __attribute__((vector_size(16)));
    union { vector all; eight parts[LANES / 8]; } whole = {all};
    union { eight all; four parts[2]; } half = {whole.parts[0]};
    if (LANES == 16) half.all += whole.parts[LANES / 8 - 1];
    const four quarter = half.parts[0] + half.parts[1];
    return (quarter[0] + quarter[1]) + (quarter[2] + quarter[3]);
}

/* Ask for numbers that are read soon: memory answers late, and not to one question at a time. */
INLINE void fetch(const number *soon, int64_t size) {
    for (int64_t k = 0; k < size; k += 64 / sizeof(number)) __builtin_prefetch(soon + k, 0, 2);
}

/* Scores of a query, already scaled, against `filled` keys; meanwhile the values are fetched. */
INLINE void scores_of(const float *query, const number *keys, const number *values, float *scores,
                      int64_t filled, int64_t size) {
    for (int64_t slot = 0; slot < filled; slot++, keys += size) {
        fetch(values + slot * size, size);
        float sum = 0;
        if (size % LANES == 0) {
            vector sums = {0};
            for (int64_t k = 0; k < size; k += LANES)
                sums += *(const vector *)(query + k) * widen_all(keys + k);
            sum = sum_of(sums);
        } else
            for (int64_t k = 0; k < size; k++) sum += query[k] * widen(keys[k]);
        scores[slot] = sum;
    }
}

/* Softmax attention of one query over `filled` slots; `scores` is scratch memory, `next` are the
 * keys to be fetched meanwhile. */
INLINE void head_of(const float *query, const number *keys, const number *values,
                    const number *next, float *scores, number *out, int64_t filled,
                    int64_t size) {
    float scaled[MOST_SIZE], most = -INFINITY, total = 0;
    const float scale = 1.0f / sqrtf((float)size);
    for (int64_t k = 0; k < size; k++) scaled[k] = query[k] * scale;
    scores_of(scaled, keys, values, scores, filled, size);
    for (int64_t slot = 0; slot < filled; slot++) most = scores[slot] > most ? scores[slot] : most;
#pragma omp simd reduction(+ : total)
    for (int64_t slot = 0; slot < filled; slot++) {
        scores[slot] = exp_negative(scores[slot] - most);
        total += scores[slot];
    }
    float *sums = scaled;
    if (size % LANES == 0 && size <= 8 * LANES) {
        vector held[8] = {{0}};
        for (int64_t slot = 0; slot < filled; slot++) {
            fetch(next + slot * size, size);
            for (int64_t k = 0; k < size; k += LANES)
                held[k / LANES] += scores[slot] * widen_all(values + slot * size + k);
        }
        memcpy(sums, held, size * sizeof(float));
    } else {
        memset(sums, 0, size * sizeof(float));
        for (int64_t slot = 0; slot < filled; slot++)
            for (int64_t k = 0; k < size; k++)
                sums[k] += scores[slot] * widen(values[slot * size + k]);
    }
    for (int64_t k = 0; k < size; k++) out[k] = narrow(sums[k] / total);
}

/* Store a token's keys and values in slot `at` and attend: qkv [M, 3 D], kv [2, M, H, C, size]
 * -> out [M, D]. Row m holds slots first[m] .. at. */
static void attend(const float *qkv, number *kv, const int64_t *first, float *scores, number *out,
                   int64_t M, int64_t H, int64_t C, int64_t size, int64_t at) {
    const int64_t D = H * size;
#pragma omp for schedule(static)
    for (int64_t job = 0; job < M * H; job++) {
        const int64_t row = job / H, head = job % H, from = first ? first[row] : 0;
        const int64_t filled = at + 1 - from;
        const float *query = qkv + row * 3 * D + head * size;
        number *keys = kv + job * C * size, *values = keys + M * C * D;
        const number *next = keys + (C + from) * size; /* of the next head */
        number *seen = out + row * D + head * size;
        for (int64_t k = 0; k < size; k++) {
            keys[at * size + k] = narrow(query[D + k]);
            values[at * size + k] = narrow(query[2 * D + k]);
        }
        keys += from * size;
        values += from * size;
        if (size == 32) head_of(query, keys, values, next, scores, seen, filled, 32);
        else if (size == 64) head_of(query, keys, values, next, scores, seen, filled, 64);
        else if (size == 128) head_of(query, keys, values, next, scores, seen, filled, 128);
        else head_of(query, keys, values, next, scores, seen, filled, size);
    }
}

/* Numbers (float32) of scratch memory that a step needs. */
int64_t work_size(int64_t M, int64_t D, int64_t C, int threads) { return 6 * M * D + C * threads; }

/* All layers: x [M, D], the embedded tokens, is used up; logits [M, V]. kv is a Cache's, [layers,
 * 2, M, H, C, D / H]; `first` may be NULL: all rows begin at slot 0. Matrices are packed. */
void step(float *x, number *kv, const int64_t *first, const number *const *qkv,
          const number *const *out, const number *const *up, const number *const *down,
          const number *head, float *logits, float *work, int64_t layers, int64_t M, int64_t D,
          int64_t H, int64_t C, int64_t V, int64_t at, int threads) {
    float *wide = work + M * D, *scores = work + 6 * M * D;
    number *normed = (number *)work, *seen = (number *)(work + 5 * M * D);
    (void)threads; /* where there is no OpenMP */
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        float *mine = scores;
#ifdef _OPENMP
        mine += omp_get_thread_num() * C;
#endif
        for (int64_t layer = 0; layer < layers; layer++) {
            norm(x, normed, M, D);
            product(normed, qkv[layer], wide, M, 3 * D, D, SET);
            attend(wide, kv + layer * 2 * M * C * D, first, mine, seen, M, H, C, D / H, at);
            product(seen, out[layer], x, M, D, D, ADD);
            norm(x, normed, M, D);
            product(normed, up[layer], wide, M, 4 * D, D, RELU);
            product((number *)wide, down[layer], x, M, D, 4 * D, ADD);
        }
        norm(x, normed, M, D);
        product(normed, head, logits, M, V, D, SET);
    }
}
