/* What losses of cross-entropy and overlap add up over the pixels, and the gradient of it, each in one pass.
 *
 * z: logits, t: target, both float; rows: images times channels; n: pixels of each. The threads share units of up to
 * UNIT pixels of a row, each with SUMS of its own, so that these do not depend on how many threads there are. Whoever
 * compiles defines both.
 */
#include <math.h>
#include <stdint.h>

enum { BLOCK = 1024 };

union bits { int32_t bits; float value; };

static inline int64_t per_row(int64_t n) { return (n + UNIT - 1) / UNIT; }

struct place { int64_t start, pixels; };

static inline struct place find(int64_t n, int64_t unit) {
    int64_t done = unit % per_row(n) * UNIT, left = n - done;
    return (struct place){unit / per_row(n) * n + done, left < UNIT ? left : UNIT};
}

/* exp(a) for a <= 0 (Cephes' polynomial), down to the smallest number there is: 2^k is made of two factors */
static inline float exponential(float a) {
    a = a < -105.0f ? -105.0f : a;
    float k = rintf(a * 1.44269504f);
    float f = (a - k * 0.693359375f) + k * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    int32_t half = (int32_t)k / 2, rest = (int32_t)k - half;
    union bits one = {.bits = (half + 127) << 23}, other = {.bits = (rest + 127) << 23};
    return (p * f * f + f + 1.0f) * one.value * other.value;
}

/* log(1 + e) for e in [0, 1]: 2 artanh(e / (2 + e)), which keeps the digits of a small e */
static inline float log_1_plus(float e) {
    float s = e / (2.0f + e), w = s * s, p = 1.0f / 13;
    p = p * w + 1.0f / 11;
    p = p * w + 1.0f / 9;
    p = p * w + 1.0f / 7;
    p = p * w + 1.0f / 5;
    p = p * w + 1.0f / 3;
    return 2.0f * s * (p * w + 1.0f);
}

/* Per unit: missed and alarmed (the cross-entropy of fore- and background), tp, fp, fn, tn, foreground, focal.
 *
 * Without focus, `kept` (or NULL) receives the probability of the unlikely class, with a minus, even before 0, where
 * that is the foreground. With it (weight and exponent of the foreground, of the background), the slope of the focal
 * sum: w1 t q^g1 (-log p) + w0 (1 - t) p^g0 (-log q). */
static inline __attribute__((always_inline)) void add_up(
    const float *z, const float *t, float *kept, double *sums, int focal_too, float w1, float g1, float w0, float g0,
    int64_t n, int64_t unit
) {
    struct place here = find(n, unit);
    double *out = sums + unit * SUMS;
    for (int s = 0; s < SUMS; s++) out[s] = 0;
    for (int64_t j = 0; j < here.pixels; j += BLOCK) {
        int64_t m = here.pixels - j < BLOCK ? here.pixels - j : BLOCK;
        const float *x = z + here.start + j, *y = t + here.start + j;
        float aside[BLOCK], *k = kept ? kept + here.start + j : aside;
        float missed = 0, alarmed = 0, tp = 0, fp = 0, fn = 0, tn = 0, foreground = 0, focal = 0;
        #pragma omp simd reduction(+ : missed, alarmed, tp, fp, fn, tn, foreground, focal)
        for (int64_t i = 0; i < m; i++) {
            float e = exponential(-fabsf(x[i])), likely = 1.0f / (1.0f + e), unlikely = e * likely;
            float p = x[i] > 0 ? likely : unlikely, q = x[i] > 0 ? unlikely : likely;
            float both = log_1_plus(e), u = 1.0f - y[i];
            float miss = both + (x[i] > 0 ? 0.0f : -x[i]), alarm = both + (x[i] > 0 ? x[i] : 0.0f);
            missed += y[i] * miss;
            alarmed += u * alarm;
            tp += y[i] * p;
            fp += u * p;
            fn += y[i] * q;
            tn += u * q;
            foreground += y[i];
            if (focal_too) {
                float f1 = w1 * y[i] * exponential(-g1 * alarm), f0 = w0 * u * exponential(-g0 * miss);
                focal += f1 * miss + f0 * alarm;
                k[i] = f0 * (g0 * q * alarm + p) - f1 * (g1 * p * miss + q);
            } else {
                k[i] = x[i] > 0 ? unlikely : -unlikely;
            }
        }
        out[0] += missed, out[1] += alarmed, out[2] += tp, out[3] += fp, out[4] += fn, out[5] += tn;
        out[6] += foreground, out[7] += focal;
    }
}

void seglab_sums(const float *z, const float *t, float *kept, double *sums, int64_t rows, int64_t n, int64_t threads) {
    int64_t units = rows * per_row(n);
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t unit = 0; unit < units; unit++) add_up(z, t, kept, sums, 0, 0, 0, 0, 0, n, unit);
}

void seglab_focal_sums(
    const float *z, const float *t, float *kept, double *sums, const float *focus, int64_t rows, int64_t n,
    int64_t threads
) {
    int64_t units = rows * per_row(n);
    float w1 = focus[0], g1 = focus[1], w0 = focus[2], g0 = focus[3];
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t unit = 0; unit < units; unit++) add_up(z, t, kept, sums, 1, w1, g1, w0, g0, n, unit);
}

/* Turns `kept` into t (w0 q + w1 p q) + (1 - t) (w2 p + w3 p q), with five weights per image and channel; where z is
 * given, and `kept` is the slope of the focal sum, w4 times that is added. */
void seglab_slope(
    const float *z, const float *t, float *kept, const float *weights, int64_t rows, int64_t n, int64_t threads
) {
    int64_t units = rows * per_row(n);
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t unit = 0; unit < units; unit++) {
        struct place here = find(n, unit);
        const float *w = weights + unit / per_row(n) * 5, *y = t + here.start;
        float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3], w4 = w[4], *k = kept + here.start;
        if (!z) {
            #pragma omp simd
            for (int64_t i = 0; i < here.pixels; i++) {
                union bits sign = {.value = k[i]};
                float unlikely = fabsf(k[i]), likely = 1.0f - unlikely, both = unlikely * likely;
                float p = sign.bits < 0 ? unlikely : likely, q = sign.bits < 0 ? likely : unlikely;
                k[i] = y[i] * (w0 * q + w1 * both) + (1.0f - y[i]) * (w2 * p + w3 * both);
            }
        } else if (w0 == 0 && w1 == 0 && w2 == 0 && w3 == 0) {
            #pragma omp simd
            for (int64_t i = 0; i < here.pixels; i++) k[i] *= w4;
        } else {
            const float *x = z + here.start;
            #pragma omp simd
            for (int64_t i = 0; i < here.pixels; i++) {
                float e = exponential(-fabsf(x[i])), likely = 1.0f / (1.0f + e), unlikely = e * likely;
                float p = x[i] > 0 ? likely : unlikely, q = x[i] > 0 ? unlikely : likely, both = likely * unlikely;
                k[i] = w4 * k[i] + y[i] * (w0 * q + w1 * both) + (1.0f - y[i]) * (w2 * p + w3 * both);
            }
        }
    }
}
