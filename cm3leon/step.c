/* One token for every row of a cache, through all layers, in float32 on a CPU.
 *
 * The numbers of Transformer.step up to rounding. There a step of few rows is a hundred small
 * operations, each with a start of its own; here it is one call, and nothing is read twice.
 * Built and called by fused.py. Axes: M rows, N outputs, K inputs of a product, D width, H heads,
 * C slots of a row's cache, V logits.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#else
#define LANES 8
#endif
#define PANEL (2 * LANES) /* outputs that lie together in a packed matrix */
#define INLINE static inline __attribute__((always_inline))
typedef float vector __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t mask __attribute__((vector_size(LANES * 4), aligned(4)));
enum { SET, ADD, RELU }; /* what becomes of a product: out = y, out += y, out = max(y, 0) */

static int64_t panels_of(int64_t N) { return (N + PANEL - 1) / PANEL; }

/* Numbers that a packed [N, K] matrix takes. */
int64_t packed_size(int64_t N, int64_t K) { return panels_of(N) * PANEL * K; }

/* w [N, K] as [panels, K, PANEL]; zeros behind the last output. */
void pack(const float *w, float *packed, int64_t N, int64_t K) {
    for (int64_t n = 0; n < panels_of(N) * PANEL; n++)
        for (int64_t k = 0; k < K; k++)
            packed[(n / PANEL * K + k) * PANEL + n % PANEL] = n < N ? w[n * K + k] : 0;
}

/* MB rows of x times PB panels of w, of whose outputs the first `count` are real. */
INLINE void tile(const float *x, const float *w, float *out, int64_t K, int64_t N, int64_t count,
                 int how, int MB, int PB) {
    vector sum[6][4] = {{{0}}};
    for (int64_t k = 0; k < K; k++) {
        vector outputs[4];
        for (int p = 0; p < 2 * PB; p++)
            outputs[p] = *(const vector *)(w + (p / 2 * K + k) * PANEL + p % 2 * LANES);
        for (int m = 0; m < MB; m++)
            for (int p = 0; p < 2 * PB; p++) sum[m][p] += x[m * K + k] * outputs[p];
    }
    for (int m = 0; m < MB; m++)
        for (int p = 0; p < 2 * PB; p++) {
            float *place = out + m * N + p * LANES;
            vector y = sum[m][p];
            if (how == RELU) y = (vector)((mask)y & (y > 0));
            if (count >= (p + 1) * LANES)
                *(vector *)place = how == ADD ? *(vector *)place + y : y;
            else
                for (int64_t lane = 0; lane < count - p * LANES; lane++)
                    place[lane] = how == ADD ? place[lane] + y[lane] : y[lane];
        }
}

/* M rows of x times PB panels, in tiles that fill the registers. */
INLINE void tiles(const float *x, const float *w, float *out, int64_t M, int64_t K, int64_t N,
                  int64_t count, int how, int PB) {
    const int most = PB == 1 ? 6 : 3;
    for (; M >= most; M -= most, x += most * K, out += most * N)
        tile(x, w, out, K, N, count, how, most, PB);
    switch (M) {
        case 5: tile(x, w, out, K, N, count, how, 5, PB); break;
        case 4: tile(x, w, out, K, N, count, how, 4, PB); break;
        case 3: tile(x, w, out, K, N, count, how, 3, PB); break;
        case 2: tile(x, w, out, K, N, count, how, 2, PB); break;
        case 1: tile(x, w, out, K, N, count, how, 1, PB); break;
    }
}

/* x [M, K] times packed w [N, K] into out [M, N]; the threads of a team share the panels. */
INLINE void product_how(const float *x, const float *w, float *out, int64_t M, int64_t N,
                        int64_t K, int how) {
    const int PB = M <= 3 ? 2 : 1; /* few rows take two panels at once, or the sums would wait */
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < panels_of(N); panel += PB) {
        const int64_t n = panel * PANEL;
        if (PB == 2 && N - n > PANEL)
            tiles(x, w + n * K, out + n, M, K, N, N - n, how, 2);
        else
            tiles(x, w + n * K, out + n, M, K, N, N - n, how, 1);
    }
}

static void product(const float *x, const float *w, float *out, int64_t M, int64_t N, int64_t K) {
    product_how(x, w, out, M, N, K, SET);
}

static void product_add(const float *x, const float *w, float *out, int64_t M, int64_t N,
                        int64_t K) {
    product_how(x, w, out, M, N, K, ADD);
}

static void product_relu(const float *x, const float *w, float *out, int64_t M, int64_t N,
                         int64_t K) {
    product_how(x, w, out, M, N, K, RELU);
}

/* LayerNorm without parameters, eps 1e-5. */
static void norm(const float *x, float *out, int64_t M, int64_t D) {
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
        for (int64_t d = 0; d < D; d++) out[m * D + d] = (from[d] - mean) * share;
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

/* Softmax attention of one query over `filled` slots. */
INLINE void head_of(const float *query, const float *keys, const float *values, float *scores,
                    float *out, int64_t filled, int64_t size) {
    const float scale = 1.0f / sqrtf((float)size);
    float most = -INFINITY, total = 0;
    for (int64_t slot = 0; slot < filled; slot++) {
        const float *key = keys + slot * size;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t k = 0; k < size; k++) sum += query[k] * key[k];
        scores[slot] = sum * scale;
        most = scores[slot] > most ? scores[slot] : most;
    }
#pragma omp simd reduction(+ : total)
    for (int64_t slot = 0; slot < filled; slot++) {
        scores[slot] = exp_negative(scores[slot] - most);
        total += scores[slot];
    }
    for (int64_t k = 0; k < size; k++) out[k] = 0;
    for (int64_t slot = 0; slot < filled; slot++) {
        const float weight = scores[slot] / total, *value = values + slot * size;
#pragma omp simd
        for (int64_t k = 0; k < size; k++) out[k] += weight * value[k];
    }
}

/* Store a token's keys and values in slot `at` and attend: qkv [M, 3 D], kv [2, M, H, C, size]
 * -> out [M, D]. Row m holds slots first[m] .. at. */
static void attend(const float *qkv, float *kv, const int64_t *first, float *scores, float *out,
                   int64_t M, int64_t H, int64_t C, int64_t size, int64_t at) {
    const int64_t D = H * size;
#pragma omp for schedule(static)
    for (int64_t job = 0; job < M * H; job++) {
        const int64_t row = job / H, head = job % H, from = first ? first[row] : 0;
        const int64_t filled = at + 1 - from;
        const float *query = qkv + row * 3 * D + head * size;
        float *keys = kv + job * C * size, *values = keys + M * C * D;
        float *seen = out + row * D + head * size;
        memcpy(keys + at * size, query + D, size * sizeof(float));
        memcpy(values + at * size, query + 2 * D, size * sizeof(float));
        keys += from * size;
        values += from * size;
        if (size == 32) head_of(query, keys, values, scores, seen, filled, 32);
        else if (size == 64) head_of(query, keys, values, scores, seen, filled, 64);
        else if (size == 128) head_of(query, keys, values, scores, seen, filled, 128);
        else head_of(query, keys, values, scores, seen, filled, size);
    }
}

/* Numbers of scratch memory that a step needs. */
int64_t work_size(int64_t M, int64_t D, int64_t C, int threads) { return 6 * M * D + C * threads; }

/* All layers: x [M, D], the embedded tokens, is used up; logits [M, V]. kv is a Cache's, [layers,
 * 2, M, H, C, D / H]; `first` may be NULL: all rows begin at slot 0. Matrices are packed. */
void step(float *x, float *kv, const int64_t *first, const float *const *qkv,
          const float *const *out, const float *const *up, const float *const *down,
          const float *head, float *logits, float *work, int64_t layers, int64_t M, int64_t D,
          int64_t H, int64_t C, int64_t V, int64_t at, int threads) {
    float *normed = work, *wide = normed + M * D, *seen = wide + 4 * M * D, *scores = seen + M * D;
    (void)threads; /* where there is no OpenMP */
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        float *mine = scores;
#ifdef _OPENMP
        mine += omp_get_thread_num() * C;
#endif
        for (int64_t layer = 0; layer < layers; layer++) {
            norm(x, normed, M, D);
            product(normed, qkv[layer], wide, M, 3 * D, D);
            attend(wide, kv + layer * 2 * M * C * D, first, mine, seen, M, H, C, D / H, at);
            product_add(seen, out[layer], x, M, D, D);
            norm(x, normed, M, D);
            product_relu(normed, up[layer], wide, M, 4 * D, D);
            product_add(wide, down[layer], x, M, D, 4 * D);
        }
        norm(x, normed, M, D);
        product(normed, head, logits, M, V, D);
    }
}
