/* What losses of cross-entropy and overlap add up over the pixels, and the gradient of it, each in one pass.
 *
 * z: logits, float; t: target, float or, if `bytes` is 1, uint8_t; rows: images times channels; n: pixels of each. The
 * threads share units of up to UNIT pixels of a row, each with SUMS of its own, so that these do not depend on how many
 * threads there are. Whoever compiles defines both.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

enum { BLOCK = 1024 };

union bits { int32_t bits; float value; };

static inline int64_t per_row(int64_t n) { return (n + UNIT - 1) / UNIT; }

struct place { int64_t start, pixels; };

static inline struct place find(int64_t n, int64_t unit) {
    int64_t done = unit % per_row(n) * UNIT, left = n - done;
    return (struct place){unit / per_row(n) * n + done, left < UNIT ? left : UNIT};
}

/* n labels as float: those of t where they are such, else put into `room` */
static inline const float *labels(const void *t, int64_t bytes, int64_t start, int64_t n, float *room) {
    if (bytes != 1) return (const float *)t + start;
    const uint8_t *from = (const uint8_t *)t + start;
    for (int64_t i = 0; i < n; i++) room[i] = from[i];
    return room;
}

/* exp(a) for a <= 0 (Cephes' polynomial), down to the smallest number there is: 2^k is made of two factors.
 * Polynomials are added up in pairs, as what a processor waits for is the longest chain of operations. */
static inline float exponential(float a) {
    a = a < -105.0f ? -105.0f : a;
    float k = rintf(a * 1.44269504f);
    float f = (a - k * 0.693359375f) + k * 2.12194440e-4f, f2 = f * f;
    float low = 5.0000001201e-1f + 1.6666665459e-1f * f, middle = 4.1665795894e-2f + 8.3334519073e-3f * f;
    float high = 1.3981999507e-3f + 1.9875691500e-4f * f;
    float p = low + f2 * (middle + f2 * high);
    int32_t half = (int32_t)k >> 1, rest = (int32_t)k - half;
    union bits one = {.bits = (half + 127) << 23}, other = {.bits = (rest + 127) << 23};
    return (p * f2 + (f + 1.0f)) * one.value * other.value;
}

/* log(1 + e) for e in [0, 1]: 2 artanh(e / (2 + e)), which keeps the digits of a small e */
static inline float log_1_plus(float e) {
    float s = e / (2.0f + e), w = s * s, w2 = w * w;
    float low = 1.0f + w * (1.0f / 3), middle = 1.0f / 5 + w * (1.0f / 7), high = 1.0f / 9 + w * (1.0f / 11);
    return 2.0f * s * (low + w2 * (middle + w2 * (high + w2 * (1.0f / 13))));
}

static inline int all_hard(const float *t, int64_t n) {
    int hard = 1;
    #pragma omp simd reduction(& : hard)
    for (int64_t i = 0; i < n; i++) hard &= (t[i] == 0) | (t[i] == 1);
    return hard;
}

/* Adds to `out` missed and alarmed (the cross-entropy of fore- and background), tp, fp, fn, tn, foreground, and the
 * squared error of fore- and background. `kept` receives the probability of the unlikely class, with a minus, even
 * before 0, where that is the foreground; `rest`, if wanted, what a pixel costs beyond its negative margin. */
static inline void add_block(
    const float *z, const float *t, float *kept, float *rest, int with_rest, double *out, int64_t n
) {
    float missed = 0, alarmed = 0, tp = 0, fp = 0, fn = 0, tn = 0, foreground = 0, missed_square = 0, alarmed_square = 0;
    #pragma omp simd reduction(+ : missed, alarmed, tp, fp, fn, tn, foreground, missed_square, alarmed_square)
    for (int64_t i = 0; i < n; i++) {
        float x = z[i], y = t[i], u = 1.0f - y;
        float e = exponential(-fabsf(x)), likely = 1.0f / (1.0f + e), unlikely = e * likely;
        float p = x > 0 ? likely : unlikely, q = x > 0 ? unlikely : likely, both = log_1_plus(e);
        missed += y * (both + (x > 0 ? 0.0f : -x));
        alarmed += u * (both + (x > 0 ? x : 0.0f));
        float hit = y * p, alarm = u * p, miss = y * q, error = alarm - miss;
        tp += hit;
        fp += alarm;
        fn += miss;
        tn += u * q;
        foreground += y;
        missed_square += y * error * error;
        alarmed_square += u * error * error;
        kept[i] = x > 0 ? unlikely : -unlikely;
        if (with_rest) rest[i] = both;
    }
    out[0] += missed, out[1] += alarmed, out[2] += tp, out[3] += fp, out[4] += fn, out[5] += tn, out[6] += foreground;
    out[7] += missed_square, out[8] += alarmed_square;
}

/* Adds focal, w1 t q^g1 (-log p) + w0 (1 - t) p^g0 (-log q), to `out`, and turns `kept` into its slope. */
static inline void add_focal(
    const float *z, const float *t, float *kept, const float *rest, const float *focus, double *out, int64_t n
) {
    float w1 = focus[0], g1 = focus[1], w0 = focus[2], g0 = focus[3], focal = 0;
    if (all_hard(t, n)) { /* each pixel needs but one of the two powers */
        #pragma omp simd reduction(+ : focal)
        for (int64_t i = 0; i < n; i++) {
            float y = t[i], v = y > 0 ? z[i] : -z[i], w = y > 0 ? w1 : w0, g = y > 0 ? g1 : g0;
            float unlikely = fabsf(kept[i]), likely = 1.0f - unlikely;
            float right = v > 0 ? likely : unlikely, wrong = v > 0 ? unlikely : likely;
            float cost = rest[i] + (v > 0 ? 0.0f : -v), f = w * exponential(-g * (rest[i] + (v > 0 ? v : 0.0f)));
            focal += f * cost;
            kept[i] = (y > 0 ? -f : f) * (g * right * cost + wrong);
        }
    } else {
        #pragma omp simd reduction(+ : focal)
        for (int64_t i = 0; i < n; i++) {
            float x = z[i], y = t[i], unlikely = fabsf(kept[i]), likely = 1.0f - unlikely;
            float p = x > 0 ? likely : unlikely, q = x > 0 ? unlikely : likely;
            float miss = rest[i] + (x > 0 ? 0.0f : -x), alarm = rest[i] + (x > 0 ? x : 0.0f);
            float f1 = w1 * y * exponential(-g1 * alarm), f0 = w0 * (1.0f - y) * exponential(-g0 * miss);
            focal += f1 * miss + f0 * alarm;
            kept[i] = f0 * (g0 * q * alarm + p) - f1 * (g1 * p * miss + q);
        }
    }
    out[9] += focal;
}

/* Whether more than one thread would do the work. */
int seglab_threaded(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

/* The sums of each unit; `kept` and `focus` may be NULL. */
void seglab_sums(
    const float *z, const void *t, float *kept, double *sums, const float *focus, int64_t bytes, int64_t rows,
    int64_t n, int64_t threads
) {
    int64_t units = rows * per_row(n);
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t unit = 0; unit < units; unit++) {
        struct place here = find(n, unit);
        double *out = sums + unit * SUMS;
        float aside[BLOCK], rest[BLOCK], room[BLOCK];
        for (int s = 0; s < SUMS; s++) out[s] = 0;
        for (int64_t j = 0; j < here.pixels; j += BLOCK) {
            int64_t start = here.start + j, m = here.pixels - j < BLOCK ? here.pixels - j : BLOCK;
            const float *x = z + start, *y = labels(t, bytes, start, m, room);
            float *k = kept ? kept + start : aside;
            if (focus) {
                add_block(x, y, k, rest, 1, out, m);
                add_focal(x, y, k, rest, focus, out, m);
            } else {
                add_block(x, y, k, rest, 0, out, m);
            }
        }
    }
}

struct weights { float missed, alarmed, tp_fn, fp_tn, missed_square, alarmed_square; };

static inline float slope(float p, float q, float y, struct weights w) {
    float u = 1.0f - y, error = u * p - y * q;
    float foreground = p * (w.tp_fn + w.missed_square * error) - w.missed;
    float background = q * (w.fp_tn + w.alarmed_square * error) + w.alarmed;
    return y * q * foreground + u * p * background;
}

static inline void slope_block(
    const float *z, const float *t, const float *kept, float *grad, struct weights w, float focal, int64_t n
) {
    if (!z) {
        #pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            union bits sign = {.value = kept[i]};
            float unlikely = fabsf(kept[i]), likely = 1.0f - unlikely;
            grad[i] = slope(sign.bits < 0 ? unlikely : likely, sign.bits < 0 ? likely : unlikely, t[i], w);
        }
    } else if (!(w.missed || w.alarmed || w.tp_fn || w.fp_tn || w.missed_square || w.alarmed_square)) {
        #pragma omp simd
        for (int64_t i = 0; i < n; i++) grad[i] = focal * kept[i];
    } else {
        #pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            float e = exponential(-fabsf(z[i])), likely = 1.0f / (1.0f + e), unlikely = e * likely;
            float p = z[i] > 0 ? likely : unlikely, q = z[i] > 0 ? unlikely : likely;
            grad[i] = focal * kept[i] + slope(p, q, t[i], w);
        }
    }
}

/* The gradient by z of the sums of a row times its SUMS weights; z is given where `kept` is the slope of the focal sum.
 * `grad` may be `kept`. */
void seglab_slope(
    const float *z, const void *t, const float *kept, float *grad, const double *weights, int64_t bytes, int64_t rows,
    int64_t n, int64_t threads
) {
    int64_t units = rows * per_row(n);
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t unit = 0; unit < units; unit++) {
        struct place here = find(n, unit);
        const double *of = weights + unit / per_row(n) * SUMS;
        struct weights w = {of[0], of[1], of[2] - of[4], of[3] - of[5], 2 * of[7], 2 * of[8]};
        float room[BLOCK];
        for (int64_t j = 0; j < here.pixels; j += BLOCK) {
            int64_t start = here.start + j, m = here.pixels - j < BLOCK ? here.pixels - j : BLOCK;
            const float *y = labels(t, bytes, start, m, room);
            slope_block(z ? z + start : NULL, y, kept + start, grad + start, w, of[9], m);
        }
    }
}
