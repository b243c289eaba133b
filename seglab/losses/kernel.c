/* What losses of cross-entropy and overlap add up over the pixels, and the gradient of it, each in one pass.
 *
 * z: logits, t: target, both float; rows: images times channels; n: pixels of each. The threads share units of up to
 * UNIT pixels of a row, each with sums of its own, so that these do not depend on how many threads there are.
 */
#include <math.h>
#include <stdint.h>

enum { UNIT = 65536, BLOCK = 1024, SUMS = 7 };

union bits { int32_t bits; float value; };

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

/* Per unit: missed and alarmed (the cross-entropy of fore- and background), tp, fp, fn, tn, foreground. `kept` (or
 * NULL) receives the probability of the unlikely class, with a minus, even before 0, where that is the foreground. */
void seglab_sums(const float *z, const float *t, float *kept, double *sums, int64_t rows, int64_t n, int64_t threads) {
    int64_t units = (n + UNIT - 1) / UNIT;
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t unit = 0; unit < rows * units; unit++) {
        int64_t start = unit / units * n + unit % units * UNIT, left = n - unit % units * UNIT;
        if (left > UNIT) left = UNIT;
        double *out = sums + unit * SUMS;
        for (int s = 0; s < SUMS; s++) out[s] = 0;
        for (int64_t j = 0; j < left; j += BLOCK) {
            int64_t m = left - j < BLOCK ? left - j : BLOCK;
            const float *x = z + start + j, *y = t + start + j;
            float aside[BLOCK], *k = kept ? kept + start + j : aside;
            float missed = 0, alarmed = 0, tp = 0, fp = 0, fn = 0, tn = 0, foreground = 0;
            #pragma omp simd reduction(+ : missed, alarmed, tp, fp, fn, tn, foreground)
            for (int64_t i = 0; i < m; i++) {
                float e = exponential(-fabsf(x[i])), likely = 1.0f / (1.0f + e), unlikely = e * likely;
                float p = x[i] > 0 ? likely : unlikely, q = x[i] > 0 ? unlikely : likely;
                float log = log_1_plus(e), u = 1.0f - y[i];
                missed += y[i] * (log + (x[i] > 0 ? 0.0f : -x[i]));
                alarmed += u * (log + (x[i] > 0 ? x[i] : 0.0f));
                tp += y[i] * p;
                fp += u * p;
                fn += y[i] * q;
                tn += u * q;
                foreground += y[i];
                k[i] = x[i] > 0 ? unlikely : -unlikely;
            }
            out[0] += missed, out[1] += alarmed, out[2] += tp, out[3] += fp, out[4] += fn, out[5] += tn;
            out[6] += foreground;
        }
    }
}

/* Turns `kept` into t (w0 q + w1 p q) + (1 - t) (w2 p + w3 p q), with four weights per image and channel. */
void seglab_slope(const float *t, float *kept, const float *weights, int64_t rows, int64_t n, int64_t threads) {
    int64_t units = (n + UNIT - 1) / UNIT;
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t unit = 0; unit < rows * units; unit++) {
        int64_t start = unit / units * n + unit % units * UNIT, left = n - unit % units * UNIT;
        if (left > UNIT) left = UNIT;
        const float *w = weights + unit / units * 4, *y = t + start;
        float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3], *k = kept + start;
        #pragma omp simd
        for (int64_t i = 0; i < left; i++) {
            union bits sign = {.value = k[i]};
            float unlikely = fabsf(k[i]), likely = 1.0f - unlikely, both = unlikely * likely;
            float p = sign.bits < 0 ? unlikely : likely, q = sign.bits < 0 ? likely : unlikely;
            k[i] = y[i] * (w0 * q + w1 * both) + (1.0f - y[i]) * (w2 * p + w3 * both);
        }
    }
}
