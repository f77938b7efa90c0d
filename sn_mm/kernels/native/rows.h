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
/* Rows of so many values are summed by fours. */
#define SHORT 64

/* -- the last values of a row -------------------------------------------- */

/* The last `size % LANES` values of a row come as a full group that ends with
 * the row, and of which only those not yet seen count. A row shorter than a
 * group comes with zeros behind it. */

/* Which lanes of load_last() are values number `seen` and later. */
INLINE mask unseen(int64_t size, int64_t seen) {
  return size < LANES ? first_lanes(size) : mask_at(size - seen);
}

INLINE lanes load_last(const value *row, int64_t size) {
  if (size < LANES) return load_few(row, size);
  return load(row + size - LANES);
}

INLINE lanes load_first(const value *row, int64_t size) {
  return size < LANES ? load_few(row, size) : load(row);
}

/* -- moments ------------------------------------------------------------- */

/* A value near the mean of a block, of which it costs next to nothing: no
 * farther from it than eight standard deviations of 1024 values, which
 * squared is small beside what float32 resolves. */
INLINE float near_mean(const value *x, int64_t size) {
  const float sum = total(load_first(x, size));
  return size < LANES ? sum / size : sum / LANES;
}

/* Two sums. Sweeps keep two pairs and add to them in turn, since an addition
 * takes longer than it takes to read a group. */
typedef struct {
  lanes first, second;
} pair;

INLINE pair add(pair t, lanes first, lanes second) {
  return (pair){t.first + first, t.second + second};
}

/* Add a, and a * b. */
INLINE pair add_times(pair t, lanes a, lanes b) {
  return (pair){t.first + a, multiply_add(a, b, t.second)};
}

INLINE pair add_square(pair t, lanes d) { return add_times(t, d, d); }

/* Sums of d and d * d, d = x - near, over a block, lane by lane. */
INLINE pair block_squares(const value *x, int64_t size, float near,
                          int64_t ahead) {
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
  return add(even, odd.first, odd.second);
}

/* Mean and biased variance of a block, from near and the sums of x - near and
 * of its squares. */
INLINE void finish_block(double near, double sum, double square, int64_t size,
                         double *mean, double *var) {
  const double part = 1. / size, offset = sum * part;
  const double squares = square - sum * offset;
  *mean = near + offset;
  *var = squares < 0 ? 0 : squares * part; /* rounding; NaN stays NaN */
}

/* The same of any row. Every block is centred on the mean so far, and blocks
 * are merged as parallel variances (Chan et al., 1979). */
INLINE void row_moments(const value *x, int64_t size, int64_t ahead,
                        double *mean, double *var) {
  if (size <= BLOCK) {
    const float near = near_mean(x, size);
    const pair t = block_squares(x, size, near, ahead);
    finish_block(near, total(t.first), total(t.second), size, mean, var);
    return;
  }
  double m = near_mean(x, BLOCK), squares = 0;
  for (int64_t start = 0; start < size;) {
    const int64_t n = smaller(BLOCK, size - start);
    const float near = m;
    const pair t = block_squares(x + start, n, near, ahead);
    const float sum = total(t.first), square = total(t.second);
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
  return add_times(t, dy, x - gate.near);
}

/* Sums of dy and of dy * (x - near) over a block, lane by lane. */
INLINE pair block_products(const value *dy, const value *x, int64_t size,
                           line gate, int gated, int64_t ahead) {
  pair even = {0}, odd = {0};
  int64_t i = 0;
  for (; i + 2 * LANES <= size; i += 2 * LANES) {
    fetch_two(dy + i + ahead);
    fetch_two(x + i + ahead);
    even = add_product(even, load(dy + i), load(x + i), gate, gated);
    odd = add_product(odd, load(dy + i + LANES), load(x + i + LANES), gate,
                      gated);
  }
  if (i + LANES <= size) {
    even = add_product(even, load(dy + i), load(x + i), gate, gated);
    i += LANES;
  }
  if (i < size) {
    const pair last = add_product((pair){0}, load_last(dy, size),
                                  load_last(x, size), gate, gated);
    const mask rest = unseen(size, i);
    odd = add(odd, keep(rest, last.first), keep(rest, last.second));
  }
  return add(even, odd.first, odd.second);
}

/* The same over a row. */
INLINE void row_products(const value *dy, const value *x, int64_t size,
                         line gate, int gated, int64_t ahead, double *sum,
                         double *product) {
  double s0 = 0, s1 = 0;
  for (int64_t start = 0; start < size; start += BLOCK) {
    const int64_t n = smaller(BLOCK, size - start);
    const pair t =
        block_products(dy + start, x + start, n, gate, gated, ahead);
    s0 += total(t.first);
    s1 += total(t.second);
  }
  *sum = s0;
  *product = s1;
}

/* Sums of d, d * d, dy and dy * d, d = x - near, over a block. */
INLINE void block_remeasure(const value *dy, const value *x, int64_t size,
                            float near, int64_t ahead, pair *squares,
                            pair *products) {
  pair s = {0}, p = {0};
  int64_t i = 0;
  for (; i + 2 * LANES <= size; i += 2 * LANES) {
    fetch_two(dy + i + ahead);
    fetch_two(x + i + ahead);
    for (int64_t j = i; j < i + 2 * LANES; j += LANES) {
      const lanes d = load(x + j) - near, g = load(dy + j);
      s = add_square(s, d);
      p = add_times(p, g, d);
    }
  }
  if (i + LANES <= size) {
    const lanes d = load(x + i) - near, g = load(dy + i);
    s = add_square(s, d);
    p = add_times(p, g, d);
    i += LANES;
  }
  if (i < size) {
    const mask rest = unseen(size, i);
    const lanes d = keep(rest, load_last(x, size) - near);
    const lanes g = keep(rest, load_last(dy, size));
    s = add_square(s, d);
    p = add_times(p, g, d);
  }
  *squares = s;
  *products = p;
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
  pair squares, products;
  block_remeasure(dy, x, size, near, ahead, &squares, &products);
  const four t =
      totals(squares.first, squares.second, products.first, products.second);
  finish_block(near, t[0], t[1], size, mean, var);
  *sum = t[2];
  *product = t[3] - ((float)*mean - (double)near) * t[2];
}

/* -- four short rows at once --------------------------------------------- */

/* The last additions of a short row, and what follows them, take as long as
 * all others: those of four rows are done side by side. There may be fewer
 * than four `rows`: the last one then stands in for those behind it. */

INLINE const value *row_at(const value *x, int64_t size, int64_t rows, int r) {
  return x + smaller(r, rows - 1) * size;
}

INLINE void store_rows(double *out, four_doubles v, int64_t rows) {
  if (rows == 4)
    memcpy(out, &v, sizeof v);
  else
    for (int64_t r = 0; r < rows; r++) out[r] = v[r];
}

/* near_mean of four rows. */
INLINE four near_means_of(const value *x, int64_t size, int64_t rows) {
  lanes first[4];
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++)
    first[r] = load_first(row_at(x, size, rows, r), size);
  return totals(first[0], first[1], first[2], first[3]) /
         (float)smaller(size, LANES);
}

/* The totals of four rows. */
INLINE four_doubles row_totals(const lanes *sums) {
  return widen_four(totals(sums[0], sums[1], sums[2], sums[3]));
}

/* From sums of x - near and of its squares to means and biased variances. */
INLINE void finish_moments(four_doubles near, four_doubles sum,
                           four_doubles square, int64_t size,
                           four_doubles *mean, four_doubles *var) {
  const double part = 1. / size;
  const four_doubles offset = sum * part, about = square - sum * offset;
  *mean = near + offset;
  /* below 0 by rounding; NaN stays NaN */
  *var = (four_doubles)((four_masks)(about * part) & ~(four_masks)(about < 0));
}

INLINE void short_moments(const value *x, int64_t size, int64_t rows,
                          int64_t ahead, double *mean, double *var) {
  const four near = near_means_of(x, size, rows);
  lanes sums[4], squares[4];
  four_doubles m, v;
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) {
    const pair t =
        block_squares(row_at(x, size, rows, r), size, near[r], ahead);
    sums[r] = t.first;
    squares[r] = t.second;
  }
  finish_moments(widen_four(near), row_totals(sums), row_totals(squares), size,
                 &m, &v);
  store_rows(mean, m, rows);
  store_rows(var, v, rows);
}

INLINE void short_remeasure(const value *dy, const value *x, int64_t size,
                            int64_t rows, int64_t ahead, double *mean,
                            double *var, double *sum, double *product) {
  const four near = near_means_of(x, size, rows);
  lanes sums[4], squares[4], of_dy[4], products[4];
  four_doubles m, v;
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) {
    pair s, p;
    block_remeasure(row_at(dy, size, rows, r), row_at(x, size, rows, r), size,
                    near[r], ahead, &s, &p);
    sums[r] = s.first;
    squares[r] = s.second;
    of_dy[r] = p.first;
    products[r] = p.second;
  }
  const four_doubles centre = widen_four(near), total_dy = row_totals(of_dy);
  finish_moments(centre, row_totals(sums), row_totals(squares), size, &m, &v);
  const four_doubles about = widen_four(__builtin_convertvector(m, four));
  store_rows(mean, m, rows);
  store_rows(var, v, rows);
  store_rows(sum, total_dy, rows);
  store_rows(product, row_totals(products) - (about - centre) * total_dy,
             rows);
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
