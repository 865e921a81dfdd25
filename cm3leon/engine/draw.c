/* One id a row: temperature, top-k, top-p and the inverse CDF of decode.choose, on a CPU.
 *
 * There a row is sorted; here the least logit that stays is found by halving: of all float32
 * numbers, which in their order are whole numbers, the largest whose tokens still have the mass.
 * Comparisons are between the same float32 logits and sums are float64 as there, so the ids are the
 * same but where a sum and its bound are equal up to float64's rounding.
 * Built without contracted multiplications and called by fused_draw.py. Axes: B rows, V logits.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define BLOCK 64 /* shares that are summed together */

/* e^x for x <= 0, below e^-700 nothing: 2^n times a quotient on [-ln2 / 2, ln2 / 2]. */
static inline double exp_negative(double x) {
    const double held = x < -700 ? -700 : x, n = __builtin_rint(held * 1.4426950408889634);
    const double r = held - n * 0.693145751953125 - n * 1.42860682030941723212e-6, s = r * r;
    const double p = r * ((1.26177193074810590878e-4 * s + 3.02994407707441961300e-2) * s + 1.0);
    const double q = ((3.00198505138664455042e-6 * s + 2.52448340349684104192e-3) * s +
                      2.27265548208155028766e-1) * s + 2.0;
    const union { int64_t bits; double power; } two = {((int64_t)n + 1023) << 52};
    return x < -700 ? 0 : (1 + 2 * p / (q - p)) * two.power;
}

/* The number of a float32 in their order, and back; both ways the same change. */
static int32_t order(int32_t bits) { return bits ^ (bits >> 31 & 0x7fffffff); }

static int32_t order_of(float x) {
    const union { float value; int32_t bits; } all = {x};
    return order(all.bits);
}

static float value_of(int32_t place) {
    const union { int32_t bits; float value; } all = {order(place)};
    return all.value;
}

/* The mass of the logits that are at least `least`. */
static double mass_above(const float *logits, const double *shares, int64_t V, float least) {
    double mass = 0;
#pragma omp simd reduction(+ : mass)
    for (int64_t v = 0; v < V; v++) mass += logits[v] >= least ? shares[v] : 0;
    return mass;
}

static int64_t count_above(const float *logits, int64_t V, float least) {
    int32_t count = 0;
#pragma omp simd reduction(+ : count)
    for (int64_t v = 0; v < V; v++) count += logits[v] >= least;
    return count;
}

/* The largest number with at least that mass, or count where there is one, of logits from it on. */
static float least_kept(const float *logits, const double *shares, int64_t V, float most,
                        double mass, int64_t count) {
    int64_t low = order_of(-INFINITY), high = order_of(most);
    while (low < high) {
        const int64_t middle = low + (high - low + 1) / 2;
        const float least = value_of(middle);
        if (count ? count_above(logits, V, least) >= count
                  : mass_above(logits, shares, V, least) >= mass)
            low = middle;
        else
            high = middle - 1;
    }
    return value_of(low);
}

static void drop_below(const float *logits, double *shares, int64_t V, float least) {
    for (int64_t v = 0; v < V; v++) shares[v] = logits[v] >= least ? shares[v] : 0;
}

static double sum_of(const double *shares, int64_t count) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t v = 0; v < count; v++) sum += shares[v];
    return sum;
}

/* The first id that carries the sum of the shares above `uniform` of the whole; -1 where the whole
 * is no positive number. `sums` [V / BLOCK] is scratch memory. */
static int64_t pick(const double *shares, double *sums, int64_t V, double uniform) {
    double total = 0, sum = 0;
    int64_t block = 0, last = -1, start = 0;
    for (int64_t v = 0; v < V; v += BLOCK) {
        sums[v / BLOCK] = sum_of(shares + v, V - v < BLOCK ? V - v : BLOCK);
        total += sums[v / BLOCK];
    }
    if (!(total > 0 && total < INFINITY)) return -1;
    const double target = fmin(uniform * total, nextafter(total, 0));
    while (start + BLOCK < V && sum + sums[block] <= target) {
        sum += sums[block++];
        start += BLOCK;
    }
    /* Rounding may carry no share of the block above the target: then it is its last one. */
    for (int64_t v = start; v < V && (v < start + BLOCK || last < 0); v++) {
        sum += shares[v];
        if (shares[v] > 0) last = v;
        if (shares[v] > 0 && sum > target) break;
    }
    return last;
}

/* One row; `scaled` [V], `shares` [V] and `sums` [V / BLOCK] are scratch memory. */
static int64_t choose(const float *logits, int64_t V, float temperature, int64_t top_k,
                      double top_p, double uniform, float *scaled, double *shares, double *sums) {
    float most = -INFINITY;
    double total = 0;
#pragma omp simd reduction(max : most)
    for (int64_t v = 0; v < V; v++) {
        scaled[v] = logits[v] / temperature;
        most = scaled[v] > most ? scaled[v] : most;
    }
    const double top = most;
#pragma omp simd reduction(+ : total)
    for (int64_t v = 0; v < V; v++) {
        shares[v] = exp_negative(scaled[v] - top);
        total += shares[v];
    }
    if (!(total >= 1 && uniform >= 0 && uniform < 1)) return -1;
    if (top_k) {
        drop_below(scaled, shares, V, least_kept(scaled, shares, V, most, 0, top_k));
        total = sum_of(shares, V);
    }
    if (top_p < 1)
        drop_below(scaled, shares, V, least_kept(scaled, shares, V, most, top_p * total, 0));
    return pick(shares, sums, V, uniform);
}

/* Bytes of scratch memory that `threads` need. */
int64_t draw_bytes(int64_t V, int threads) {
    return threads * (V * sizeof(float) + (V + V / BLOCK + 2) * sizeof(double)) + 8;
}

/* logits [B, V], uniforms [B] -> ids [B], -1 where a row cannot be drawn from: it holds NaN or
 * +inf or nothing finite, or its uniform is not in [0, 1). top_k 0 and top_p 1 keep all. */
void draw(const float *logits, const double *uniforms, int64_t *ids, double *work, int64_t B,
          int64_t V, float temperature, int64_t top_k, double top_p, int threads) {
    const int64_t doubles = V + V / BLOCK + 1;
    (void)threads; /* where there is no OpenMP */
#pragma omp parallel num_threads(threads) if (threads > 1 && B > 1)
    {
        int mine = 0;
#ifdef _OPENMP
        mine = omp_get_thread_num();
#endif
        double *shares = work + mine * doubles;
        float *scaled = (float *)(work + threads * doubles) + mine * V;
#pragma omp for schedule(static)
        for (int64_t b = 0; b < B; b++)
            ids[b] = choose(logits + b * V, V, temperature, top_k, top_p, uniforms[b], scaled,
                            shares, shares + V);
    }
}
