/* Copyright (c) sn_mm authors. Licensed under Apache-2.0.
 *
 * What rows.h does, where channels are the last dimension in memory: the
 * values of some neighbouring channels, `width` at most CHUNK, at `size`
 * positions that are `stride` values apart.
 */
#ifndef SN_MM_COLUMNS_H
#define SN_MM_COLUMNS_H

#include <stdint.h>
#include <string.h>

/* Channels of a chunk. */
#define CHUNK 64
/* Positions whose sums run in float32. */
#define STRETCH 64
/* Positions between what is worked on and what is fetched from memory. */
#define POSITIONS_AHEAD 16

/* Fetch a position's values; there is no harm in one past the end. */
static inline void fetch(const float *x, int64_t width) {
  for (int64_t e = 0; e < width; e += LANES) __builtin_prefetch(x + e);
}

/* Means of the first few positions: see near_mean. */
static inline void near_means(const float *x, int64_t size, int64_t stride,
                              int64_t width, double *mean) {
  const int64_t n = shorter(LANES, size);
  float sum[CHUNK] = {0};
  for (int64_t i = 0; i < n; i++)
    for (int64_t e = 0; e < width; e++) sum[e] += x[i * stride + e];
  for (int64_t e = 0; e < width; e++) mean[e] = sum[e] / n;
}

/* Means and biased variances, merged as in row_moments. */
static inline void column_moments(const float *x, int64_t size, int64_t stride,
                                  int64_t width, double *mean, double *var) {
  double squares[CHUNK] = {0};
  near_means(x, size, stride, width, mean);
  for (int64_t start = 0; start < size; start += STRETCH) {
    const int64_t n = shorter(STRETCH, size - start);
    float centre[CHUNK], t0[CHUNK] = {0}, t1[CHUNK] = {0};
    for (int64_t e = 0; e < width; e++) centre[e] = mean[e];
    for (int64_t i = start; i < start + n; i++) {
      const float *b = x + i * stride;
      fetch(b + POSITIONS_AHEAD * stride, width);
      for (int64_t e = 0; e < width; e++) {
        const float d = b[e] - centre[e];
        t0[e] += d;
        t1[e] += d * d;
      }
    }
    const double part = start ? (double)n / (start + n) : 1.;
    for (int64_t e = 0; e < width; e++) {
      const double shift = (double)t0[e] / n;
      const double delta = centre[e] + shift - mean[e];
      squares[e] += t1[e] - t0[e] * shift + delta * delta * part * start;
      mean[e] += delta * part;
    }
  }
  for (int64_t e = 0; e < width; e++)
    var[e] = squares[e] < 0 ? 0 : squares[e] / size;
}

/* Sums of g and of g * (x - centre). */
static inline void column_products(const float *g, const float *x,
                                   int64_t size, int64_t stride, int64_t width,
                                   const float *centre, double *sum,
                                   double *product) {
  for (int64_t e = 0; e < width; e++) sum[e] = product[e] = 0;
  for (int64_t start = 0; start < size; start += STRETCH) {
    const int64_t n = shorter(STRETCH, size - start);
    float t0[CHUNK] = {0}, t1[CHUNK] = {0};
    for (int64_t i = start; i < start + n; i++) {
      const float *v = g + i * stride, *b = x + i * stride;
      fetch(v + POSITIONS_AHEAD * stride, width);
      fetch(b + POSITIONS_AHEAD * stride, width);
      for (int64_t e = 0; e < width; e++) {
        t0[e] += v[e];
        t1[e] += v[e] * (b[e] - centre[e]);
      }
    }
    for (int64_t e = 0; e < width; e++) {
      sum[e] += t0[e];
      product[e] += t1[e];
    }
  }
}

/* out = a * (x - centre) + c. */
static inline void column_affine(const float *x, int64_t size, int64_t stride,
                                 int64_t width, const float *centre,
                                 const float *a, const float *c, float *out) {
  for (int64_t i = 0; i < size; i++) {
    const float *b = x + i * stride;
    float *y = out + i * stride;
    fetch(b + POSITIONS_AHEAD * stride, width);
    for (int64_t e = 0; e < width; e++) y[e] = a[e] * (b[e] - centre[e]) + c[e];
  }
}

/* out = s * g + (a * (x - centre) + c). */
static inline void column_combination(const float *g, const float *x,
                                      int64_t size, int64_t stride,
                                      int64_t width, const float *s,
                                      const float *centre, const float *a,
                                      const float *c, float *out) {
  for (int64_t i = 0; i < size; i++) {
    const float *v = g + i * stride, *b = x + i * stride;
    float *y = out + i * stride;
    fetch(v + POSITIONS_AHEAD * stride, width);
    fetch(b + POSITIONS_AHEAD * stride, width);
    for (int64_t e = 0; e < width; e++)
      y[e] = s[e] * v[e] + (a[e] * (b[e] - centre[e]) + c[e]);
  }
}

#endif
