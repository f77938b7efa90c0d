/* Copyright (c) sn_mm authors. Licensed under Apache-2.0.
 *
 * What rows.h does, where channels are the last dimension in memory: the
 * values of neighbouring channels lie side by side, and those of one row are
 * `stride` values apart.
 *
 * Every channel's sum takes its positions in order, and each position has one
 * place in the tables below, so results do not depend on how many channels
 * are summed at once.
 */
#ifndef SN_MM_COLUMNS_H
#define SN_MM_COLUMNS_H

#include "rows.h"

/* Channels that are summed at once, a whole number of groups. */
#define WIDTH 256
/* Positions whose sums run in float32, and positions read together. */
#define STRETCH 64
#define TOGETHER 4

/* Channels [start, start + width) of one sample, from position 0. */
typedef struct {
  const value *x, *dy; /* first values; dy may be NULL */
  int64_t size, stride, width;
  int64_t readable; /* values in memory from x[0] on */
} columns;

/* Channels e to e + LANES of position i. Behind the last channel come values
 * of the next position, or zeros: they are summed beside the others, and
 * nobody looks at their sums. */
INLINE lanes load_at(const columns *c, const value *array, int64_t i,
                     int64_t e) {
  const int64_t at = i * c->stride + e, rest = c->readable - at;
  if (rest < LANES) return load_few(array + at, rest);
  return load(array + at);
}

INLINE void fetch(const columns *c, const value *array, int64_t i, int64_t e,
                  int64_t ahead) {
  __builtin_prefetch(array + i * c->stride + e + ahead);
}

/* Means of the first few positions: see near_mean. */
INLINE void near_means(const columns *c, float *near) {
  const int64_t n = smaller(LANES, c->size);
  for (int64_t e = 0; e < c->width; e += LANES) {
    lanes sum = {0};
    for (int64_t i = 0; i < n; i++) sum += load_at(c, c->x, i, e);
    store_floats(near + e, sum / (float)n);
  }
}

/* Sums of a stretch of positions, by channel. */
typedef struct {
  float near[WIDTH];
  float offset[WIDTH], square[WIDTH]; /* of x - near and its square */
  float dy[WIDTH], product[WIDTH];    /* of dy and dy * (x - near) */
} column_sums;

/* Add `count` positions from i on to the sums of x. */
INLINE void add_squares(const columns *c, int64_t i, int count, int64_t ahead,
                        column_sums *s) {
  for (int64_t e = 0; e < c->width; e += LANES) {
    const lanes near = load_floats(s->near + e);
    lanes t0 = load_floats(s->offset + e), t1 = load_floats(s->square + e);
    for (int p = 0; p < count; p++) {
      fetch(c, c->x, i + p, e, ahead);
      const lanes d = load_at(c, c->x, i + p, e) - near;
      t0 += d;
      t1 += d * d;
    }
    store_floats(s->offset + e, t0);
    store_floats(s->square + e, t1);
  }
}

/* Means and biased variances, merged as in row_moments. */
INLINE void column_moments(const columns *c, int64_t ahead, double *mean,
                           double *var) {
  double squares[WIDTH] = {0};
  column_sums s;
  near_means(c, s.near);
  for (int64_t e = 0; e < c->width; e++) mean[e] = s.near[e];
  for (int64_t start = 0; start < c->size; start += STRETCH) {
    const int64_t n = smaller(STRETCH, c->size - start), end = start + n;
    memset(s.offset, 0, sizeof s.offset);
    memset(s.square, 0, sizeof s.square);
    int64_t i = start;
    for (; i + TOGETHER <= end; i += TOGETHER)
      add_squares(c, i, TOGETHER, ahead, &s);
    for (; i < end; i++) add_squares(c, i, 1, ahead, &s);
    const double share = start ? (double)n / end : 1.;
    for (int64_t e = 0; e < c->width; e++) {
      const double offset = (double)s.offset[e] / n;
      const double delta = s.near[e] + offset - mean[e];
      squares[e] +=
          s.square[e] - s.offset[e] * offset + delta * delta * share * start;
      mean[e] += delta * share;
      s.near[e] = mean[e];
    }
  }
  for (int64_t e = 0; e < c->width; e++)
    var[e] = squares[e] < 0 ? 0 : squares[e] / c->size;
}

/* Add `count` positions from i on to the sums of dy. */
INLINE void add_products(const columns *c, int64_t i, int count,
                         const float *scale, const float *shift, int gated,
                         int64_t ahead, column_sums *s) {
  for (int64_t e = 0; e < c->width; e += LANES) {
    const lanes near = load_floats(s->near + e);
    lanes t0 = load_floats(s->dy + e), t1 = load_floats(s->product + e);
    lanes steep = {0}, high = {0};
    if (gated) {
      steep = load_floats(scale + e);
      high = load_floats(shift + e);
    }
    for (int p = 0; p < count; p++) {
      fetch(c, c->x, i + p, e, ahead);
      fetch(c, c->dy, i + p, e, ahead);
      const lanes d = load_at(c, c->x, i + p, e) - near;
      lanes g = load_at(c, c->dy, i + p, e);
      if (gated) g = keep(~(steep * d + high <= 0), g);
      t0 += g;
      t1 += g * d;
    }
    store_floats(s->dy + e, t0);
    store_floats(s->product + e, t1);
  }
}

/* Sums of dy and of dy * (x - near), dy behind the ReLU of `scale` and
 * `shift` if `gated`. */
INLINE void column_products(const columns *c, const float *near,
                            const float *scale, const float *shift, int gated,
                            int64_t ahead, double *sum, double *product) {
  column_sums s = {0};
  float steep[WIDTH] = {0}, high[WIDTH] = {0};
  memcpy(s.near, near, c->width * sizeof(float));
  if (gated) {
    memcpy(steep, scale, c->width * sizeof(float));
    memcpy(high, shift, c->width * sizeof(float));
  }
  for (int64_t e = 0; e < c->width; e++) sum[e] = product[e] = 0;
  for (int64_t start = 0; start < c->size; start += STRETCH) {
    const int64_t end = smaller(start + STRETCH, c->size);
    memset(s.dy, 0, sizeof s.dy);
    memset(s.product, 0, sizeof s.product);
    int64_t i = start;
    for (; i + TOGETHER <= end; i += TOGETHER)
      add_products(c, i, TOGETHER, steep, high, gated, ahead, &s);
    for (; i < end; i++) add_products(c, i, 1, steep, high, gated, ahead, &s);
    for (int64_t e = 0; e < c->width; e++) {
      sum[e] += s.dy[e];
      product[e] += s.product[e];
    }
  }
}

/* -- writing ------------------------------------------------------------- */

/* Some neighbouring channels of one position. Values up to `readable` may be
 * read behind the first one, and up to `writable` written: what is written
 * behind the last channel is then overwritten by what belongs there. */
typedef struct {
  int64_t width, readable, writable;
} position;

INLINE lanes load_part(const value *x, int64_t e, position p) {
  if (e + LANES <= p.readable) return load(x + e);
  return load_few(x + e, p.readable - e);
}

INLINE lanes load_factor(const float *factor, int64_t e, position p) {
  if (e + LANES <= p.width) return load_floats(factor + e);
  return load_few_floats(factor + e, p.width - e);
}

INLINE void store_part(value *out, int64_t e, position p, lanes v) {
  if (e + LANES <= p.writable)
    store(out + e, v);
  else
    store_few(out + e, smaller(LANES, p.width - e), v);
}

/* out = scale * (x - near) + shift, behind a ReLU if `relu`. */
INLINE void column_affine(const value *x, position p, const float *near,
                          const float *scale, const float *shift, int relu,
                          int64_t ahead, value *out) {
  for (int64_t e = 0; e < p.width; e += LANES) {
    __builtin_prefetch(out + e + ahead, 1);
    const lanes centred = load_part(x, e, p) - load_factor(near, e, p);
    lanes y = load_factor(scale, e, p) * centred + load_factor(shift, e, p);
    if (relu) y = keep(~(y < 0), y);
    store_part(out, e, p, y);
  }
}

/* out = scale * dy + slope * (x - near) + shift, dy behind the ReLU of
 * `gate_scale` and `gate_shift` if `gated`. */
INLINE void column_combine(const value *dy, const value *x, position p,
                           const float *scale, const float *near,
                           const float *slope, const float *shift,
                           const float *gate_scale, const float *gate_shift,
                           int gated, int64_t ahead, value *out) {
  for (int64_t e = 0; e < p.width; e += LANES) {
    __builtin_prefetch(out + e + ahead, 1);
    const lanes centred = load_part(x, e, p) - load_factor(near, e, p);
    lanes g = load_part(dy, e, p);
    if (gated)
      g = keep(~(load_factor(gate_scale, e, p) * centred +
                     load_factor(gate_shift, e, p) <=
                 0),
               g);
    const lanes rest =
        load_factor(slope, e, p) * centred + load_factor(shift, e, p);
    store_part(out, e, p, load_factor(scale, e, p) * g + rest);
  }
}

#endif
