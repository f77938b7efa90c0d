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

/* Values between what is worked on and what is fetched from memory. The
 * hardware's own prefetching stops at every page and waits for the writes. */
#define AHEAD 2048

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

#if defined(__clang__) || __GNUC__ >= 12
#define MERGE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t four_bits __attribute__((vector_size(16)));
#define MERGE(a, b, ...) __builtin_shuffle(a, b, (four_bits){__VA_ARGS__})
#endif

/* total() of four, in the same order of summation. */
static inline four totals(const lanes *t) {
  four q[4];
  for (int i = 0; i < 4; i++) {
    union { lanes v; eight half[2]; } whole = {t[i]};
    union { eight v; four half[2]; } rest = {whole.half[0] + whole.half[1]};
    q[i] = rest.half[0] + rest.half[1];
  }
  const four a = MERGE(q[0], q[1], 0, 4, 1, 5) + MERGE(q[0], q[1], 2, 6, 3, 7);
  const four b = MERGE(q[2], q[3], 0, 4, 1, 5) + MERGE(q[2], q[3], 2, 6, 3, 7);
  return MERGE(a, b, 0, 1, 4, 5) + MERGE(a, b, 2, 3, 6, 7);
}

static inline int64_t shorter(int64_t a, int64_t b) { return a < b ? a : b; }

/* The last n % LANES values of b[0 .. n), n >= LANES, come as a full load of
 * the last LANES values, of which `tail` keeps those not yet seen. */
typedef int32_t bits __attribute__((vector_size(4 * LANES)));
typedef int32_t unaligned_bits
    __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
static const int32_t window[2 * LANES] = {
    [LANES] = -1, -1, -1, -1, -1, -1, -1, -1,
    -1, -1, -1, -1, -1, -1, -1, -1};

static inline lanes tail(lanes v, int64_t unseen) {
  const bits keep = *(const unaligned_bits *)(window + unseen);
  return (lanes)((bits)v & keep);
}

/* Sums of d and d * d, d = b[i] - centre, over a block. */
static inline void block_squares(const float *b, int64_t n, float centre,
                                 float *sum, float *square) {
  lanes t0 = {0}, t1 = {0};
  float r0 = 0, r1 = 0;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    __builtin_prefetch(b + i + AHEAD);
    const lanes d = load(b + i) - centre;
    t0 += d;
    t1 += d * d;
  }
  if (i < n && i) {
    const lanes d = tail(load(b + n - LANES) - centre, n - i);
    t0 += d;
    t1 += d * d;
  } else
    for (; i < n; i++) {
      const float d = b[i] - centre;
      r0 += d;
      r1 += d * d;
    }
  *sum = total(t0) + r0;
  *square = total(t1) + r1;
}

/* Sums of g and g * (b - centre) over a block. */
static inline void block_products(const float *g, const float *b, int64_t n,
                                  float centre, float *sum, float *product) {
  lanes t0 = {0}, t1 = {0};
  float r0 = 0, r1 = 0;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    __builtin_prefetch(g + i + AHEAD);
    __builtin_prefetch(b + i + AHEAD);
    const lanes v = load(g + i);
    t0 += v;
    t1 += v * (load(b + i) - centre);
  }
  if (i < n && i) {
    const lanes v = tail(load(g + n - LANES), n - i);
    t0 += v;
    t1 += tail(v * (load(b + n - LANES) - centre), n - i);
  } else
    for (; i < n; i++) {
      r0 += g[i];
      r1 += g[i] * (b[i] - centre);
    }
  *sum = total(t0) + r0;
  *product = total(t1) + r1;
}

/* A value near the mean of a block, of which it costs next to nothing: no
 * farther from it than eight standard deviations of 1024 values, which
 * squared is small beside what float32 resolves. */
static inline float near_mean(const float *b, int64_t n) {
  if (n >= LANES) return total(load(b)) / LANES;
  float sum = 0;
  for (int64_t i = 0; i < n; i++) sum += b[i];
  return sum / n;
}

/* Mean and biased variance. Every block is centred on the mean so far, and
 * blocks are merged as parallel variances (Chan et al., 1979). */
static inline void row_moments(const float *x, int64_t size, double *mean,
                               double *var) {
  double m = near_mean(x, shorter(BLOCK, size)), squares = 0;
  for (int64_t start = 0; start < size;) {
    const int64_t n = shorter(BLOCK, size - start);
    const float centre = m;
    float rest, spread;
    block_squares(x + start, n, centre, &rest, &spread);
    const double shift = (double)rest / n;
    const double delta = centre + shift - m;
    const double part = start ? (double)n / (start + n) : 1.;
    squares += spread - rest * shift + delta * delta * part * start;
    m += delta * part;
    start += n;
  }
  *mean = m;
  *var = squares < 0 ? 0 : squares / size; /* rounding; NaN stays NaN */
}

/* Values before the first one that is aligned to a full register. */
static inline int64_t unaligned_values(const float *out) {
  return (-(uintptr_t)out / sizeof(float)) % LANES;
}

/* Rows are written in full registers: an unaligned one, aligned ones (a store
 * across two cache lines costs twice), and one that ends with the row. They
 * may overlap, and then write the same values again. */
#define WRITE_ROW(n, out, AT)                                           \
  do {                                                                  \
    int64_t i = 0;                                                      \
    if ((n) >= LANES) {                                                 \
      *(unaligned *)(out) = AT(load, 0);                                \
      for (i = unaligned_values(out); i + LANES <= (n); i += LANES) {   \
        __builtin_prefetch((out) + i + AHEAD, 1);                       \
        *(unaligned *)((out) + i) = AT(load, i);                        \
      }                                                                 \
      if (i < (n)) {                                                    \
        i = (n)-LANES;                                                  \
        *(unaligned *)((out) + i) = AT(load, i);                        \
      }                                                                 \
    } else                                                              \
      for (; i < (n); i++) (out)[i] = AT(*, i);                         \
  } while (0)

/* out = a * (b - centre) + c. */
static inline void row_affine(const float *b, int64_t n, float centre, float a,
                              float c, float *out) {
#define AFFINE(get, i) (a * (get(b + (i)) - centre) + c)
  WRITE_ROW(n, out, AFFINE);
}

/* out = s * g + (a * (b - centre) + c). */
static inline void row_combination(const float *g, const float *b, int64_t n,
                                   float s, float centre, float a, float c,
                                   float *out) {
#define COMBINATION(get, i) \
  (s * get(g + (i)) + (a * (get(b + (i)) - centre) + c))
  WRITE_ROW(n, out, COMBINATION);
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

/* row_moments and row_products in one sweep, and what the products are
 * centred on. */
static inline float row_all(const float *g, const float *b, int64_t size,
                            double *mean, double *var, double *sum,
                            double *product) {
  const float centre = near_mean(b, shorter(BLOCK, size));
  if (size > BLOCK) {
    row_moments(b, size, mean, var);
    row_products(g, b, size, centre, sum, product);
    return centre;
  }
  lanes t0 = {0}, t1 = {0}, t2 = {0}, t3 = {0};
  float r0 = 0, r1 = 0, r2 = 0, r3 = 0;
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) {
    __builtin_prefetch(g + i + AHEAD);
    __builtin_prefetch(b + i + AHEAD);
    const lanes d = load(b + i) - centre, v = load(g + i);
    t0 += d;
    t1 += d * d;
    t2 += v;
    t3 += v * d;
  }
  if (i < size && i) {
    const lanes d = tail(load(b + size - LANES) - centre, size - i);
    const lanes v = tail(load(g + size - LANES), size - i);
    t0 += d;
    t1 += d * d;
    t2 += v;
    t3 += v * d;
  } else
    for (; i < size; i++) {
      const float d = b[i] - centre;
      r0 += d;
      r1 += d * d;
      r2 += g[i];
      r3 += g[i] * d;
    }
  const double rest = total(t0) + r0, shift = rest / size;
  const double squares = total(t1) + r1 - rest * shift;
  *mean = centre + shift;
  *var = squares < 0 ? 0 : squares / size;
  *sum = total(t2) + r2;
  *product = total(t3) + r3;
  return centre;
}

/* Whether rows are so short that what follows the sums costs as much as the
 * sums: it is the same work for four rows as for one. */
static inline int by_four(int64_t size) { return size >= LANES && size <= 128; }

/* row_moments of four rows at once. */
static inline void four_moments(const float *x, int64_t size, double *mean,
                                double *var) {
  const int64_t whole = size / LANES * LANES, rest = size - whole;
  lanes first[4], t0[4], t1[4];
  for (int r = 0; r < 4; r++) first[r] = load(x + r * size);
  const four near = totals(first) / LANES;
  for (int r = 0; r < 4; r++) {
    const float *b = x + r * size, centre = near[r];
    t0[r] = t1[r] = (lanes){0};
    for (int64_t i = 0; i < whole; i += LANES) {
      __builtin_prefetch(b + i + AHEAD);
      const lanes d = load(b + i) - centre;
      t0[r] += d;
      t1[r] += d * d;
    }
    if (rest) {
      const lanes d = tail(load(b + size - LANES) - centre, rest);
      t0[r] += d;
      t1[r] += d * d;
    }
  }
  const four sums = totals(t0), squares = totals(t1);
  for (int r = 0; r < 4; r++) {
    const double shift = (double)sums[r] / size;
    const double v = squares[r] - sums[r] * shift;
    mean[r] = near[r] + shift;
    var[r] = v < 0 ? 0 : v / size;
  }
}

#endif
