/* Copyright (c) sn_mm authors. Licensed under Apache-2.0.
 *
 * Sums over one contiguous row of float32 values.
 *
 * Sums run in float32 over blocks that stay in the first-level cache and in
 * double over blocks: as fast as memory, and no digits lost to a large mean.
 * Each row is summed in one fixed order, so results do not depend on the
 * number of threads.
 */
#ifndef SN_MM_ROWS_H
#define SN_MM_ROWS_H

#include <stdint.h>

#define BLOCK 1024

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

/* Sums of g and of g * (b - centre) over a row. */
static inline void row_products(const float *g, const float *b, int64_t size,
                                float centre, double *sum, double *product) {
  double s0 = 0, s1 = 0;
  for (int64_t start = 0; start < size; start += BLOCK) {
    float b0, b1;
    block_products(g + start, b + start, shorter(BLOCK, size - start), centre,
                   &b0, &b1);
    s0 += b0;
    s1 += b1;
  }
  *sum = s0;
  *product = s1;
}

#endif
