/* Copyright (c) sn_mm authors. Licensed under Apache-2.0.
 *
 * Sums over one row whose values lie side by side, and rows computed from
 * such rows.
 *
 * Sums run in float32 over blocks that stay in the first-level cache and in
 * double over blocks: as fast as memory, and no digits lost to a large mean.
 * Each row is summed in one fixed order, so results do not depend on the
 * number of threads.
 *
 * Glossary: `near` is a number near the row's mean, on which its values are
 * centred before anything else. `ahead` is how many values lie between what
 * is worked on and what is fetched from memory. A block's `offset` is the
 * mean of its centred values.
 */
#ifndef SN_MM_ROWS_H
#define SN_MM_ROWS_H

#include "values.h"

#define BLOCK 1024

/* -- the last values of a row -------------------------------------------- */

/* The last `size % LANES` values of a row come as a full group that ends with
 * the row, and of which only those not yet seen count. A row shorter than a
 * group comes with zeros behind it. */
static const int32_t counts[3 * LANES] = {[LANES... 2 * LANES - 1] = -1};

/* Which lanes of load_last() are values number `seen` and later. */
INLINE mask unseen(int64_t size, int64_t seen) {
  mask which;
  memcpy(&which, counts + (size < LANES ? 2 * LANES - size : size - seen),
         sizeof which);
  return which;
}

INLINE lanes load_last(const value *row, int64_t size) {
  if (size < LANES) return load_few(row, size);
  return load(row + size - LANES);
}

/* -- moments ------------------------------------------------------------- */

/* A value near the mean of a block, of which it costs next to nothing: no
 * farther from it than eight standard deviations of 1024 values, which
 * squared is small beside what float32 resolves. */
INLINE float near_mean(const value *x, int64_t size) {
  if (size >= LANES) return total(load(x)) / LANES;
  return total(load_few(x, size)) / size;
}

/* Two sums. Sweeps keep two pairs and add to them in turn, since an addition
 * takes longer than it takes to read a group. */
typedef struct {
  lanes first, second;
} pair;

INLINE pair add(pair t, lanes first, lanes second) {
  return (pair){t.first + first, t.second + second};
}

INLINE pair add_square(pair t, lanes d) { return add(t, d, d * d); }

/* Sums of d and d * d, d = x - near, over a block. */
INLINE void block_squares(const value *x, int64_t size, float near,
                          int64_t ahead, float *sum, float *square) {
  pair even = {0}, odd = {0};
  int64_t i = 0;
  for (; i + 2 * LANES <= size; i += 2 * LANES) {
    fetch_two(x + i + ahead);
    even = add_square(even, load(x + i) - near);
    odd = add_square(odd, load(x + i + LANES) - near);
  }
  if (i + LANES <= size) {
    even = add_square(even, load(x + i) - near);
    i += LANES;
  }
  if (i < size)
    odd = add_square(odd, keep(unseen(size, i), load_last(x, size) - near));
  even = add(even, odd.first, odd.second);
  *sum = total(even.first);
  *square = total(even.second);
}

/* Mean and biased variance of a row of one block. */
INLINE void short_moments(const value *x, int64_t size, int64_t ahead,
                          double *mean, double *var) {
  const float near = near_mean(x, size);
  const double part = 1. / size;
  float sum, square;
  block_squares(x, size, near, ahead, &sum, &square);
  const double offset = sum * part, squares = square - sum * offset;
  *mean = near + offset;
  *var = squares < 0 ? 0 : squares * part; /* rounding; NaN stays NaN */
}

/* The same of any row. Every block is centred on the mean so far, and blocks
 * are merged as parallel variances (Chan et al., 1979). */
INLINE void row_moments(const value *x, int64_t size, int64_t ahead,
                        double *mean, double *var) {
  if (size <= BLOCK) {
    short_moments(x, size, ahead, mean, var);
    return;
  }
  double m = near_mean(x, BLOCK), squares = 0;
  for (int64_t start = 0; start < size;) {
    const int64_t n = smaller(BLOCK, size - start);
    const float near = m;
    float sum, square;
    block_squares(x + start, n, near, ahead, &sum, &square);
    const double offset = (double)sum / n;
    const double delta = near + offset - m;
    const double share = start ? (double)n / (start + n) : 1.;
    squares += square - sum * offset + delta * delta * share * start;
    m += delta * share;
    start += n;
  }
  *mean = m;
  *var = squares < 0 ? 0 : squares / size;
}

/* -- lines: scale * (x - near) + shift ----------------------------------- */

typedef struct {
  float near, scale, shift;
} line;

INLINE lanes on_line(lanes x, line f) {
  return f.scale * (x - f.near) + f.shift;
}

/* dy where a ReLU let on_line(x) pass, else 0. NaN passes, as in PyTorch. */
INLINE lanes passed(lanes dy, lanes x, line gate) {
  return keep(~(on_line(x, gate) <= 0), dy);
}

/* -- products ------------------------------------------------------------ */

/* Add a group of dy, behind the gate's ReLU if `gated`, and of
 * dy * (x - near), to both sums. */
INLINE pair add_product(pair t, lanes dy, lanes x, line gate, int gated) {
  if (gated) dy = passed(dy, x, gate);
  return add(t, dy, dy * (x - gate.near));
}

/* Sums of dy and of dy * (x - near) over a row. */
INLINE void row_products(const value *dy, const value *x, int64_t size,
                         line gate, int gated, int64_t ahead, double *sum,
                         double *product) {
  double s0 = 0, s1 = 0;
  for (int64_t start = 0; start < size; start += BLOCK) {
    const int64_t n = smaller(BLOCK, size - start);
    const value *g = dy + start, *v = x + start;
    pair even = {0}, odd = {0};
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
      fetch_two(g + i + ahead);
      fetch_two(v + i + ahead);
      even = add_product(even, load(g + i), load(v + i), gate, gated);
      odd = add_product(odd, load(g + i + LANES), load(v + i + LANES), gate,
                        gated);
    }
    if (i + LANES <= n) {
      even = add_product(even, load(g + i), load(v + i), gate, gated);
      i += LANES;
    }
    if (i < n) {
      const pair last = add_product((pair){0}, load_last(g, n),
                                    load_last(v, n), gate, gated);
      const mask rest = unseen(n, i);
      odd = add(odd, keep(rest, last.first), keep(rest, last.second));
    }
    s0 += total(even.first + odd.first);
    s1 += total(even.second + odd.second);
  }
  *sum = s0;
  *product = s1;
}

/* row_moments, and row_products about the mean as a float, in one sweep. */
INLINE void row_remeasure(const value *dy, const value *x, int64_t size,
                          int64_t ahead, double *mean, double *var,
                          double *sum, double *product) {
  if (size > BLOCK) {
    row_moments(x, size, ahead, mean, var);
    const line about = {*mean, 0, 0};
    row_products(dy, x, size, about, 0, ahead, sum, product);
    return;
  }
  const float near = near_mean(x, size);
  const double part = 1. / size;
  pair squares = {0}, products = {0};
  int64_t i = 0;
  for (; i + 2 * LANES <= size; i += 2 * LANES) {
    fetch_two(dy + i + ahead);
    fetch_two(x + i + ahead);
    for (int64_t j = i; j < i + 2 * LANES; j += LANES) {
      const lanes d = load(x + j) - near, g = load(dy + j);
      squares = add_square(squares, d);
      products = add(products, g, g * d);
    }
  }
  if (i + LANES <= size) {
    const lanes d = load(x + i) - near, g = load(dy + i);
    squares = add_square(squares, d);
    products = add(products, g, g * d);
    i += LANES;
  }
  if (i < size) {
    const mask rest = unseen(size, i);
    const lanes d = keep(rest, load_last(x, size) - near);
    const lanes g = keep(rest, load_last(dy, size));
    squares = add_square(squares, d);
    products = add(products, g, g * d);
  }
  const four t =
      totals(squares.first, squares.second, products.first, products.second);
  const double offset = t[0] * part;
  const double about_mean = t[1] - t[0] * offset;
  *mean = near + offset;
  *var = about_mean < 0 ? 0 : about_mean * part;
  *sum = t[2];
  *product = t[3] - ((float)*mean - (double)near) * t[2];
}

/* -- writing ------------------------------------------------------------- */

/* Rows are written in full groups: an unaligned one, aligned ones (a store
 * across two lines of memory costs twice), and one that ends with the row.
 * They may overlap, and then write the same values again. */

/* A group of scale * (x - near) + shift, behind a ReLU if `relu`. */
INLINE lanes affine_of(lanes x, line f, int relu) {
  const lanes y = on_line(x, f);
  return relu ? keep(~(y < 0), y) : y; /* NaN stays NaN */
}

INLINE void row_affine(const value *x, int64_t size, line f, int relu,
                       int64_t ahead, value *out) {
  if (size < LANES) {
    store_few(out, size, affine_of(load_few(x, size), f, relu));
    return;
  }
  store(out, affine_of(load(x), f, relu));
  int64_t i = to_alignment(out);
  for (; i + 2 * LANES <= size; i += 2 * LANES) {
    fetch_two_to_write(out + i + ahead);
    store(out + i, affine_of(load(x + i), f, relu));
    store(out + i + LANES, affine_of(load(x + i + LANES), f, relu));
  }
  if (i + LANES <= size) {
    store(out + i, affine_of(load(x + i), f, relu));
    i += LANES;
  }
  i = size - LANES;
  store(out + i, affine_of(load(x + i), f, relu));
}

/* What a gradient of x is made of, for one row: scale * dy, dy behind the
 * ReLU of `gate` if there is one, and slope * (x - near) + shift. */
typedef struct {
  float scale;
  line rest, gate;
} blend;

INLINE lanes combine_of(lanes dy, lanes x, blend b, int gated) {
  if (gated) dy = passed(dy, x, b.gate);
  return b.scale * dy + on_line(x, b.rest);
}

INLINE void row_combine(const value *dy, const value *x, int64_t size, blend b,
                        int gated, int64_t ahead, value *out) {
  if (size < LANES) {
    const lanes g = load_few(dy, size), v = load_few(x, size);
    store_few(out, size, combine_of(g, v, b, gated));
    return;
  }
  store(out, combine_of(load(dy), load(x), b, gated));
  int64_t i = to_alignment(out);
  for (; i + 2 * LANES <= size; i += 2 * LANES) {
    fetch_two_to_write(out + i + ahead);
    for (int64_t j = i; j < i + 2 * LANES; j += LANES)
      store(out + j, combine_of(load(dy + j), load(x + j), b, gated));
  }
  if (i + LANES <= size) {
    store(out + i, combine_of(load(dy + i), load(x + i), b, gated));
    i += LANES;
  }
  i = size - LANES;
  store(out + i, combine_of(load(dy + i), load(x + i), b, gated));
}

#endif
