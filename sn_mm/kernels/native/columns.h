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

/* Add `count` positions from i on, channels e to e + LANES, to the sums of x.
 * All of these are the sample's own if `whole`. */
INLINE void add_group_squares(const columns *c, int64_t i, int count,
                              int64_t e, int whole, int64_t ahead,
                              column_sums *s) {
  const int starts_line = e * sizeof(value) % LINE == 0;
  const lanes near = load_floats(s->near + e);
  lanes t0 = load_floats(s->offset + e), t1 = load_floats(s->square + e);
  const value *x = c->x + i * c->stride + e;
  for (int p = 0; p < count; p++, x += c->stride) {
    if (starts_line) __builtin_prefetch(x + ahead);
    const lanes d = (whole ? load(x) : load_at(c, c->x, i + p, e)) - near;
    t0 += d;
    t1 += d * d;
  }
  store_floats(s->offset + e, t0);
  store_floats(s->square + e, t1);
}

INLINE void add_squares(const columns *c, int64_t i, int count, int64_t ahead,
                        column_sums *s) {
  int64_t e = 0;
  for (; e + LANES <= c->width; e += LANES)
    add_group_squares(c, i, count, e, 1, ahead, s);
  if (e < c->width) add_group_squares(c, i, count, e, 0, ahead, s);
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

/* Factors of the ReLU behind which dy counts, by channel. */
typedef struct {
  float scale[WIDTH], shift[WIDTH];
} column_gate;

/* Add `count` positions from i on, channels e to e + LANES, to the sums of
 * dy. */
INLINE void add_group_products(const columns *c, int64_t i, int count,
                               int64_t e, int whole, const column_gate *gate,
                               int gated, int64_t ahead, column_sums *s) {
  const int starts_line = e * sizeof(value) % LINE == 0;
  const lanes near = load_floats(s->near + e);
  lanes t0 = load_floats(s->dy + e), t1 = load_floats(s->product + e);
  const lanes scale = load_floats(gate->scale + e);
  const lanes shift = load_floats(gate->shift + e);
  const int64_t first = i * c->stride + e;
  const value *x = c->x + first, *dy = c->dy + first;
  for (int p = 0; p < count; p++, x += c->stride, dy += c->stride) {
    if (starts_line) {
      __builtin_prefetch(x + ahead);
      __builtin_prefetch(dy + ahead);
    }
    const lanes d = (whole ? load(x) : load_at(c, c->x, i + p, e)) - near;
    lanes g = whole ? load(dy) : load_at(c, c->dy, i + p, e);
    if (gated) g = keep(~(scale * d + shift <= 0), g);
    t0 += g;
    t1 += g * d;
  }
  store_floats(s->dy + e, t0);
  store_floats(s->product + e, t1);
}

INLINE void add_products(const columns *c, int64_t i, int count,
                         const column_gate *gate, int gated, int64_t ahead,
                         column_sums *s) {
  int64_t e = 0;
  for (; e + LANES <= c->width; e += LANES)
    add_group_products(c, i, count, e, 1, gate, gated, ahead, s);
  if (e < c->width)
    add_group_products(c, i, count, e, 0, gate, gated, ahead, s);
}

/* Sums of dy and of dy * (x - near), dy behind the ReLU of `scale` and
 * `shift` if `gated`. */
INLINE void column_products(const columns *c, const float *near,
                            const float *scale, const float *shift, int gated,
                            int64_t ahead, double *sum, double *product) {
  column_sums s = {0};
  column_gate gate = {0};
  memcpy(s.near, near, c->width * sizeof(float));
  if (gated) {
    memcpy(gate.scale, scale, c->width * sizeof(float));
    memcpy(gate.shift, shift, c->width * sizeof(float));
  }
  for (int64_t e = 0; e < c->width; e++) sum[e] = product[e] = 0;
  for (int64_t start = 0; start < c->size; start += STRETCH) {
    const int64_t end = smaller(start + STRETCH, c->size);
    memset(s.dy, 0, sizeof s.dy);
    memset(s.product, 0, sizeof s.product);
    int64_t i = start;
    for (; i + TOGETHER <= end; i += TOGETHER)
      add_products(c, i, TOGETHER, &gate, gated, ahead, &s);
    for (; i < end; i++) add_products(c, i, 1, &gate, gated, ahead, &s);
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

/* The last channels of a position, fewer than a group, from channel e on. */
INLINE lanes load_rest(const value *x, int64_t e, position p) {
  if (e + LANES <= p.readable) return load(x + e);
  return load_few(x + e, p.readable - e);
}

INLINE void store_rest(value *out, int64_t e, position p, lanes v) {
  if (e + LANES <= p.writable)
    store(out + e, v);
  else
    store_few(out + e, p.width - e, v);
}

/* Factors of neighbouring channels: see line and blend in rows.h. `scale` is
 * that of dy, and NULL where there is none; `gate_scale` and `gate_shift` are
 * those of a ReLU behind which dy counts, or NULL. */
typedef struct {
  const float *scale, *near, *slope, *shift, *gate_scale, *gate_shift;
} column_factors;

/* A group of a factor, of which `n` are there. */
INLINE lanes load_factor(const float *factor, int64_t n) {
  return n >= LANES ? load_floats(factor) : load_few_floats(factor, n);
}

/* slope * (x - near) + shift, behind a ReLU if `relu`, of the group from
 * channel e on, of which `n` are there. */
INLINE lanes affine_group(lanes x, const column_factors *f, int64_t e,
                          int64_t n, int relu) {
  const lanes centred = x - load_factor(f->near + e, n);
  const lanes y =
      load_factor(f->slope + e, n) * centred + load_factor(f->shift + e, n);
  return relu ? keep(~(y < 0), y) : y;
}

INLINE void column_affine(const value *x, position p, const column_factors *f,
                          int relu, int64_t ahead, value *out) {
  int64_t e = 0;
  for (; e + LANES <= p.width; e += LANES) {
    __builtin_prefetch(out + e + ahead, 1);
    store(out + e, affine_group(load(x + e), f, e, LANES, relu));
  }
  if (e < p.width)
    store_rest(out, e, p,
               affine_group(load_rest(x, e, p), f, e, p.width - e, relu));
}

/* scale * dy + slope * (x - near) + shift. */
INLINE lanes combine_group(lanes dy, lanes x, const column_factors *f,
                           int64_t e, int64_t n, int gated) {
  const lanes centred = x - load_factor(f->near + e, n);
  if (gated) {
    const lanes y = load_factor(f->gate_scale + e, n) * centred +
                    load_factor(f->gate_shift + e, n);
    dy = keep(~(y <= 0), dy);
  }
  return load_factor(f->scale + e, n) * dy +
         (load_factor(f->slope + e, n) * centred +
          load_factor(f->shift + e, n));
}

INLINE void column_combine(const value *dy, const value *x, position p,
                           const column_factors *f, int gated, int64_t ahead,
                           value *out) {
  int64_t e = 0;
  for (; e + LANES <= p.width; e += LANES) {
    __builtin_prefetch(out + e + ahead, 1);
    const lanes g = load(dy + e), v = load(x + e);
    store(out + e, combine_group(g, v, f, e, LANES, gated));
  }
  if (e < p.width) {
    const lanes g = load_rest(dy, e, p), v = load_rest(x, e, p);
    store_rest(out, e, p, combine_group(g, v, f, e, p.width - e, gated));
  }
}

#endif
