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
#include <math.h>
#include <stdint.h>

#define BLOCK 1024
/* On fewer values than this, threads cost more than they save. */
#define GRAIN 32768

/* One wide register, or several narrow ones: a fixed order of summation on
 * every machine, and no slow remainder loops on short rows. */
#define LANES 16
typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef float eight __attribute__((vector_size(32)));
typedef float four __attribute__((vector_size(16)));
typedef float unaligned
    __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline lanes load(const float *x) { return *(const unaligned *)x; }

static inline float total(lanes t) {
  union { lanes v; eight half[2]; } whole = {t};
  union { eight v; four half[2]; } rest = {whole.half[0] + whole.half[1]};
  const four sum = rest.half[0] + rest.half[1];
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

static inline int64_t shorter(int64_t a, int64_t b) { return a < b ? a : b; }

static inline float block_sum(const float *b, int64_t n) {
  lanes t = {0};
  float rest = 0;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) t += load(b + i);
  for (; i < n; i++) rest += b[i];
  return total(t) + rest;
}

/* Sums of g and g * (b - centre) over a block. */
static inline void block_products(const float *g, const float *b, int64_t n,
                                  float centre, float *sum, float *product) {
  lanes t0 = {0}, t1 = {0};
  float r0 = 0, r1 = 0;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    const lanes v = load(g + i);
    t0 += v;
    t1 += v * (load(b + i) - centre);
  }
  for (; i < n; i++) {
    r0 += g[i];
    r1 += g[i] * (b[i] - centre);
  }
  *sum = total(t0) + r0;
  *product = total(t1) + r1;
}

/* Sums of d and d * d, d = b[i] - centre, over a block. */
static inline void block_squares(const float *b, int64_t n, float centre,
                                 float *sum, float *square) {
  lanes t0 = {0}, t1 = {0};
  float r0 = 0, r1 = 0;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    const lanes d = load(b + i) - centre;
    t0 += d;
    t1 += d * d;
  }
  for (; i < n; i++) {
    const float d = b[i] - centre;
    r0 += d;
    r1 += d * d;
  }
  *sum = total(t0) + r0;
  *square = total(t1) + r1;
}

/* Mean and biased variance. Every block is centred on the mean so far, the
 * first one on its own, and blocks are merged as parallel variances (Chan et
 * al., 1979). `rest` also holds what the rounding of `centre` left over.
 * first = shorter(BLOCK, size), and inverse is 1 / first. */
static inline void row_moments(const float *x, int64_t size, int64_t first,
                               double inverse, double *mean, double *var) {
  float rest, spread, centre = block_sum(x, first) * (float)inverse;
  block_squares(x, first, centre, &rest, &spread);
  double shift = rest * inverse;
  double m = centre + shift, v = (spread - rest * shift) * inverse;
  if (first < size) {
    double squares = v * first;
    for (int64_t start = first; start < size;) {
      const int64_t n = shorter(BLOCK, size - start);
      centre = m;
      block_squares(x + start, n, centre, &rest, &spread);
      shift = (double)rest / n;
      const double delta = centre + shift - m;
      const double part = (double)n / (start + n);
      m += delta * part;
      squares += spread - rest * shift + delta * delta * part * start;
      start += n;
    }
    v = squares / size;
  }
  *mean = m;
  *var = v < 0 ? 0 : v; /* below zero is rounding; NaN stays NaN */
}

/* `moments` gets all means, then all variances. */
void sn_moments(const float *x, int64_t count, int64_t size, double *moments,
                int threads) {
  const int64_t first = shorter(BLOCK, size);
  const double inverse = 1. / first;
#pragma omp parallel for schedule(static) num_threads(threads) \
    if (count > 1 && count * size > GRAIN)
  for (int64_t r = 0; r < count; r++)
    row_moments(x + r * size, size, first, inverse, moments + r,
                moments + count + r);
}

/* What a row is multiplied with: weight / sqrt(var + eps). */
static inline double row_scale(double var, double eps, const double *weight,
                               int64_t channel) {
  return (weight ? weight[channel] : 1.) / sqrt(var + eps);
}

/* y = scale * (x - mu) + bias. Here and below, `near` is the row's own mean
 * m as a float, x - near does not cancel, and the constant term makes up for
 * the difference. `mixed` holds all mu, then all var; weight and bias, one
 * double a channel, may be NULL. */
void sn_apply(const float *x, int64_t count, int64_t size, int64_t channels,
              const double *m, const double *mixed, const double *weight,
              const double *bias, double eps, float *y, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) \
    if (count > 1 && count * size > GRAIN)
  for (int64_t r = 0; r < count; r++) {
    const float *in = x + r * size;
    float *out = y + r * size;
    const int64_t c = r % channels;
    const double scale = row_scale(mixed[count + r], eps, weight, c);
    const float near = m[r], a = scale;
    const float b = (bias ? bias[c] : 0.) - scale * (mixed[r] - near);
#pragma omp simd
    for (int64_t i = 0; i < size; i++) out[i] = a * (in[i] - near) + b;
  }
}

/* From dy to sums[0] = sum(dy), sums[1] = sum(dy * (x - mu)) / sqrt(var +
 * eps), and d_mixed: the gradients of mu and of var. */
void sn_reduce(const float *dy, const float *x, int64_t count, int64_t size,
               int64_t channels, const double *m, const double *mixed,
               const double *weight, double eps, double *sums,
               double *d_mixed, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) \
    if (count > 1 && count * size > GRAIN)
  for (int64_t r = 0; r < count; r++) {
    const float near = m[r];
    double s0 = 0, s1 = 0;
    for (int64_t start = 0; start < size; start += BLOCK) {
      const float *g = dy + r * size + start, *b = x + r * size + start;
      const int64_t n = shorter(BLOCK, size - start);
      float b0, b1;
      block_products(g, b, n, near, &b0, &b1);
      s0 += b0;
      s1 += b1;
    }
    const double var = mixed[count + r];
    const double rstd = 1 / sqrt(var + eps);
    const double scale = weight ? rstd * weight[r % channels] : rstd;
    s1 = (s1 - (mixed[r] - near) * s0) * rstd;
    sums[r] = s0;
    sums[count + r] = s1;
    d_mixed[r] = -scale * s0;
    d_mixed[count + r] = -0.5 * scale * rstd * s1;
  }
}

/* dx = scale * dy + (d_m + 2 * d_v * (x - m)) / size; `d_moments` holds all
 * d_m, then all d_v. */
void sn_input_grad(const float *dy, const float *x, int64_t count,
                   int64_t size, int64_t channels, const double *m,
                   const double *var, const double *weight, double eps,
                   const double *d_moments, float *dx, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) \
    if (count > 1 && count * size > GRAIN)
  for (int64_t r = 0; r < count; r++) {
    const float *g = dy + r * size, *in = x + r * size;
    float *out = dx + r * size;
    const double slope = 2 * d_moments[count + r] / size;
    const float near = m[r], b = slope;
    const float a = row_scale(var[r], eps, weight, r % channels);
    const float c = d_moments[r] / size - slope * (m[r] - near);
#pragma omp simd
    for (int64_t i = 0; i < size; i++)
      out[i] = a * g[i] + (b * (in[i] - near) + c);
  }
}
