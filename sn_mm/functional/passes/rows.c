/* Copyright (c) sn_mm authors. Licensed under Apache-2.0.
 *
 * The passes over contiguous float32 rows: `count` rows of `size` values,
 * one double of each vector a row.
 *
 * Sums run in float32 over blocks that stay in the first-level cache and in
 * double over blocks: as fast as memory, and no digits lost to a large mean.
 * Rows are independent and each is summed in one fixed order, so results do
 * not depend on the number of threads.
 */
#include <stdint.h>

#define BLOCK 1024
/* On fewer values than this, threads cost more than they save. */
#define GRAIN 32768

static int64_t shorter(int64_t a, int64_t b) { return a < b ? a : b; }

/* Mean and biased variance: exact within a block, merged as parallel
 * variances (Chan et al., 1979). */
static void row_moments(const float *x, int64_t size, double *mean,
                        double *var) {
  double m = 0, squares = 0;
  for (int64_t start = 0; start < size; start += BLOCK) {
    const float *b = x + start;
    const int64_t n = shorter(BLOCK, size - start);
    float sum = 0, rest = 0, spread = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += b[i];
    const float centre = sum / n;
#pragma omp simd reduction(+ : rest, spread)
    for (int64_t i = 0; i < n; i++) {
      const float d = b[i] - centre;
      rest += d;
      spread += d * d;
    }
    /* `rest` is what the rounding of `centre` left over. */
    const double block_mean = centre + (double)rest / n;
    const double delta = block_mean - m, part = (double)n / (start + n);
    m += delta * part;
    squares += spread - (double)rest * rest / n + delta * delta * part * start;
  }
  *mean = m;
  *var = squares > 0 ? squares / size : squares - squares;
}

void sn_moments(const float *x, int64_t count, int64_t size, double *mean,
                double *var, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) \
    if (count > 1 && count * size > GRAIN)
  for (int64_t r = 0; r < count; r++)
    row_moments(x + r * size, size, mean + r, var + r);
}

/* y = scale * (x - m) + shift. Here and below, `near` is m as a float and
 * the constant term makes up for the difference. */
void sn_affine(const float *x, int64_t count, int64_t size, const double *m,
               const double *scale, const double *shift, float *y,
               int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) \
    if (count > 1 && count * size > GRAIN)
  for (int64_t r = 0; r < count; r++) {
    const float *in = x + r * size;
    float *out = y + r * size;
    const float near = m[r], a = scale[r];
    const float b = shift[r] - scale[r] * (m[r] - near);
#pragma omp simd
    for (int64_t i = 0; i < size; i++) out[i] = a * (in[i] - near) + b;
  }
}

/* s0 = sum(dy), s1 = sum(dy * (x - m)). */
void sn_grad_sums(const float *dy, const float *x, int64_t count,
                  int64_t size, const double *m, double *s0, double *s1,
                  int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) \
    if (count > 1 && count * size > GRAIN)
  for (int64_t r = 0; r < count; r++) {
    const float near = m[r];
    double t0 = 0, t1 = 0;
    for (int64_t start = 0; start < size; start += BLOCK) {
      const float *g = dy + r * size + start, *b = x + r * size + start;
      const int64_t n = shorter(BLOCK, size - start);
      float b0 = 0, b1 = 0;
#pragma omp simd reduction(+ : b0, b1)
      for (int64_t i = 0; i < n; i++) {
        b0 += g[i];
        b1 += g[i] * (b[i] - near);
      }
      t0 += b0;
      t1 += b1;
    }
    s0[r] = t0;
    s1[r] = t1 - (m[r] - near) * t0;
  }
}

/* dx = scale * dy + slope * (x - m) + offset. */
void sn_input_grad(const float *dy, const float *x, int64_t count,
                   int64_t size, const double *m, const double *scale,
                   const double *slope, const double *offset, float *dx,
                   int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) \
    if (count > 1 && count * size > GRAIN)
  for (int64_t r = 0; r < count; r++) {
    const float *g = dy + r * size, *in = x + r * size;
    float *out = dx + r * size;
    const float near = m[r], a = scale[r], b = slope[r];
    const float c = offset[r] - slope[r] * (m[r] - near);
#pragma omp simd
    for (int64_t i = 0; i < size; i++)
      out[i] = a * g[i] + (b * (in[i] - near) + c);
  }
}
