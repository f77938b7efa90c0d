/* Copyright (c) sn_mm authors. Licensed under Apache-2.0.
 *
 * Sweeps over the rows of x (N, C, S), a row being one (n, c) of S values.
 * They know nothing of what is normalized: two of them sum (moments,
 * products; remeasure does both at once) and two write (affine, combine).
 *
 * x lies in memory as (N, C, S), or as (N, S, C) with `last`; dy, y and dx
 * lie as x does, and their type is that of values.h. Numbers of rows, which
 * sweeps return, are doubles (N, C), and factors of rows, which they take, are
 * floats (N, C).
 */
#include <stdlib.h>

#include "columns.h"
#include "pages.h"
#include "rows.h"

/* On fewer values than this, threads cost more than they save. */
#define GRAIN 32768
/* Rows summed at once, at most, and values that these should have. */
#define ROWS 64
#define VALUES 8192
/* Values written at once: many, since a processor must find out anew what to
 * fetch ahead of each piece. Past the caches as many as a buffer holds. */
#define PIECE 65536
#define BUFFER 4096

/* What suits the machine, see calibration.py: how many values ahead to fetch
 * from memory what is read and what is written, and from how many bytes of
 * output on to write past the caches (never if negative). */
static int64_t read_ahead = 2048, write_ahead = 2048, stream_from = -1;

void sweeps_tune(int64_t for_reading, int64_t for_writing, int64_t from) {
  read_ahead = for_reading;
  write_ahead = for_writing;
  stream_from = from;
}

typedef struct {
  int64_t samples, channels, size; /* N, C, S */
  int64_t last;
} layout;

static inline int64_t values_of(layout in) {
  return in.samples * in.channels * in.size;
}

static inline int threads_for(layout in, int64_t threads) {
  return values_of(in) > GRAIN ? threads : 1;
}

/* -- sums ---------------------------------------------------------------- */

/* What is summed at once: `width` rows, of one sample where channels are
 * last. How many these are decides nothing but who sums them. */
typedef struct {
  int64_t width, per_sample, count;
} chunks;

static chunks make_chunks(layout in, int threads) {
  const int64_t rows = in.samples * in.channels;
  if (!in.last) {
    const int64_t width =
        smaller(in.size < VALUES ? VALUES / in.size : 1, ROWS);
    return (chunks){width, 0, (rows + width - 1) / width};
  }
  int64_t width = WIDTH;
  while (width > LANES &&
         in.samples * ((in.channels + width - 1) / width) < threads)
    width /= 2;
  const int64_t per_sample = (in.channels + width - 1) / width;
  return (chunks){width, per_sample, in.samples * per_sample};
}

/* Rows [row, row + width) of the (N, C) rows; `columns` is where they are
 * if channels are last, else their first value is x. */
typedef struct {
  int64_t row, width;
  const value *x, *dy;
  columns columns;
} chunk;

static chunk chunk_at(layout in, chunks all, int64_t index, const value *dy,
                      const value *x) {
  chunk at;
  int64_t first;
  if (in.last) {
    const int64_t n = index / all.per_sample;
    const int64_t start = (index - n * all.per_sample) * all.width;
    at.row = n * in.channels + start;
    at.width = smaller(all.width, in.channels - start);
    first = n * in.channels * in.size + start;
  } else {
    at.row = index * all.width;
    at.width = smaller(all.width, in.samples * in.channels - at.row);
    first = at.row * in.size;
  }
  at.x = x + first;
  at.dy = dy ? dy + first : NULL;
  at.columns = (columns){at.x,        at.dy,    in.size,
                         in.channels, at.width, values_of(in) - first};
  return at;
}

INLINE void chunk_moments(layout in, chunk at, double *mean, double *var) {
  const int64_t ahead = read_ahead, size = in.size;
  if (in.last) {
    column_moments(&at.columns, ahead, mean, var);
    return;
  }
  if (size <= SHORT) {
    for (int64_t r = 0; r < at.width; r += 4)
      short_moments(at.x + r * size, size, smaller(4, at.width - r), ahead,
                    mean + r, var + r);
    return;
  }
  for (int64_t r = 0; r < at.width; r++)
    row_moments(at.x + r * size, size, ahead, mean + r, var + r);
}

/* Means and variances (2, N, C) of the rows. */
void sweeps_moments(const value *x, int64_t samples, int64_t channels,
                    int64_t size, int64_t last, double *moments,
                    int64_t most_threads) {
  const layout in = {samples, channels, size, last};
  const int threads = threads_for(in, most_threads);
  const chunks all = make_chunks(in, threads);
  double *means = moments, *vars = moments + samples * channels;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < all.count; i++) {
    const chunk at = chunk_at(in, all, i, NULL, x);
    double *mean = means + at.row, *var = vars + at.row;
    chunk_moments(in, at, mean, var);
  }
}

/* Factors of a ReLU that follows scale * (x - near) + shift; scale and shift
 * are NULL where there is none. */
typedef struct {
  const float *near, *scale, *shift;
} gates;

INLINE void chunk_products(layout in, chunk at, gates g, int gated,
                           double *sum, double *product) {
  const int64_t ahead = read_ahead, size = in.size;
  const float *near = g.near + at.row;
  const float *scale = gated ? g.scale + at.row : NULL;
  const float *shift = gated ? g.shift + at.row : NULL;
  if (in.last) {
    column_products(&at.columns, near, scale, shift, gated, ahead, sum,
                    product);
    return;
  }
  for (int64_t r = 0; r < at.width; r++) {
    line gate = {near[r], 0, 0};
    if (gated) gate = (line){near[r], scale[r], shift[r]};
    row_products(at.dy + r * size, at.x + r * size, size, gate, gated, ahead,
                 sum + r, product + r);
  }
}

INLINE void gated_products(layout in, chunk at, gates g, double *sum,
                           double *product) {
  if (g.scale)
    chunk_products(in, at, g, 1, sum, product);
  else
    chunk_products(in, at, g, 0, sum, product);
}

/* Sums (2, N, C) of dy and of dy * (x - near), where dy counts behind the
 * ReLU of `gate_scale` and `gate_shift` unless these are NULL. */
void sweeps_products(const value *dy, const value *x, int64_t samples,
                     int64_t channels, int64_t size, int64_t last,
                     const float *near, const float *gate_scale,
                     const float *gate_shift, double *sums,
                     int64_t most_threads) {
  const layout in = {samples, channels, size, last};
  const gates g = {near, gate_scale, gate_shift};
  const int threads = threads_for(in, most_threads);
  const chunks all = make_chunks(in, threads);
  double *first = sums, *second = sums + samples * channels;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < all.count; i++) {
    const chunk at = chunk_at(in, all, i, dy, x);
    double *sum = first + at.row, *product = second + at.row;
    gated_products(in, at, g, sum, product);
  }
}

INLINE void chunk_remeasure(layout in, chunk at, double *mean, double *var,
                            double *sum, double *product) {
  const int64_t ahead = read_ahead, size = in.size;
  if (in.last) {
    float near[WIDTH];
    column_moments(&at.columns, ahead, mean, var);
    for (int64_t e = 0; e < at.width; e++) near[e] = mean[e];
    column_products(&at.columns, near, NULL, NULL, 0, ahead, sum, product);
    return;
  }
  if (size <= SHORT) {
    for (int64_t r = 0; r < at.width; r += 4)
      short_remeasure(at.dy + r * size, at.x + r * size, size,
                      smaller(4, at.width - r), ahead, mean + r, var + r,
                      sum + r, product + r);
    return;
  }
  for (int64_t r = 0; r < at.width; r++)
    row_remeasure(at.dy + r * size, at.x + r * size, size, ahead, mean + r,
                  var + r, sum + r, product + r);
}

/* sweeps_moments, and sweeps_products about their means as floats. */
void sweeps_remeasure(const value *dy, const value *x, int64_t samples,
                      int64_t channels, int64_t size, int64_t last,
                      double *moments, double *sums, int64_t most_threads) {
  const layout in = {samples, channels, size, last};
  const int threads = threads_for(in, most_threads);
  const chunks all = make_chunks(in, threads);
  const int64_t rows = samples * channels;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < all.count; i++) {
    const chunk at = chunk_at(in, all, i, dy, x);
    double *m = moments + at.row, *v = m + rows;
    double *s = sums + at.row, *p = s + rows;
    chunk_remeasure(in, at, m, v, s, p);
  }
}

/* -- outputs ------------------------------------------------------------- */

/* What a sweep writes: either affine's factors or combine's. Where there is
 * no dy, `line` is what is computed. NULL gates are left out. */
typedef struct {
  const value *dy, *x;
  const float *scale; /* of dy */
  gates line, gate;
  int relu;
} recipe;

/* Values [start, start + count) of the output, written to `out`. They are
 * cut anywhere, also within a row. */
INLINE void write_rows(layout in, const recipe *how, int64_t start,
                       int64_t count, int gated, int64_t ahead, value *out) {
  const int64_t size = in.size, end = start + count;
  int64_t r = start / size, stop = (r + 1) * size;
  for (int64_t at = start; at < end; r++, stop += size) {
    const int64_t n = smaller(stop, end) - at;
    const line f = {how->line.near[r], how->line.scale[r], how->line.shift[r]};
    if (how->dy) {
      blend b = {how->scale[r], f, f};
      if (gated)
        b.gate = (line){f.near, how->gate.scale[r], how->gate.shift[r]};
      row_combine(how->dy + at, how->x + at, n, b, gated, ahead, out);
    } else {
      row_affine(how->x + at, n, f, gated, ahead, out);
    }
    out += n;
    at += n;
  }
}

/* The same where channels are last: cut anywhere, also within the channels of
 * a position. */
INLINE void write_columns(layout in, const recipe *how, int64_t start,
                          int64_t count, int gated, int64_t ahead,
                          value *out) {
  const int64_t channels = in.channels, all = values_of(in);
  const int64_t sample = channels * in.size, end = start + count;
  int64_t n = start / sample, channel = start % channels;
  for (int64_t at = start; at < end; n++) {
    const int64_t stop = smaller((n + 1) * sample, end);
    while (at < stop) {
      const int64_t r = n * channels + channel;
      const position p = {smaller(channels - channel, stop - at), all - at,
                          end - at};
      const column_factors f = {how->scale + r,      how->line.near + r,
                                how->line.scale + r, how->line.shift + r,
                                how->gate.scale + r, how->gate.shift + r};
      if (how->dy)
        column_combine(how->dy + at, how->x + at, p, &f, gated, ahead, out);
      else
        column_affine(how->x + at, p, &f, gated, ahead, out);
      out += p.width;
      at += p.width;
      channel = 0;
    }
  }
}

INLINE void write_piece(layout in, const recipe *how, int64_t start,
                        int64_t count, int gated, int64_t ahead, value *out) {
  if (in.last)
    write_columns(in, how, start, count, gated, ahead, out);
  else
    write_rows(in, how, start, count, gated, ahead, out);
}

/* Copy values, whole lines of memory past the caches. Both addresses lie
 * equally far from the start of a line. */
static void stream(value *out, const value *values, int64_t count) {
  char *target = (char *)out;
  const char *source = (const char *)values;
  const int64_t bytes = count * sizeof(value);
  const int64_t head = smaller(-(uintptr_t)target % LINE, bytes);
  const int64_t end = head + (bytes - head) / LINE * LINE;
  memcpy(target, source, head);
  for (int64_t i = head; i < end; i += LINE)
    stream_line(target + i, source + i);
  memcpy(target + end, source + end, bytes - end);
}

INLINE void make_piece(layout in, const recipe *how, int64_t start,
                       int64_t count, int past_caches, int gated, value *out) {
  if (!past_caches) {
    write_piece(in, how, start, count, gated, write_ahead, out + start);
    return;
  }
  value buffer[BUFFER + LINE / sizeof(value)] __attribute__((aligned(LINE)));
  value *values = buffer + (uintptr_t)(out + start) % LINE / sizeof(value);
  write_piece(in, how, start, count, gated, 0, values);
  stream(out + start, values, count);
}

/* Shares of several threads are to be alike. */
static int64_t piece_for(int64_t values, int threads) {
  if (threads == 1) return PIECE;
  const int64_t share = values / (8 * threads);
  return share < BUFFER ? BUFFER : smaller(share, PIECE);
}

/* Every thread from the end of its share, which it also read in the sweep
 * before: what it read last is still in its caches. */
static void write_all(layout in, const recipe *how, value *out,
                      int64_t most_threads) {
  const int64_t values = values_of(in),
                bytes = values * (int64_t)sizeof(value);
  const int threads = threads_for(in, most_threads);
  const int past_caches =
      CAN_STREAM && stream_from >= 0 && bytes >= stream_from;
  const int64_t piece = past_caches ? BUFFER : piece_for(values, threads);
  const int64_t pieces = (values + piece - 1) / piece;
  const int asked = ask_for_huge_pages(out, bytes);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t t = 0; t < threads; t++) {
    const int64_t first = t * pieces / threads;
    int waits = asked;
    double since = waits ? now() : 0;
    for (int64_t i = (t + 1) * pieces / threads - 1; i >= first; i--) {
      const int64_t start = i * piece, n = smaller(piece, values - start);
      if (how->relu)
        make_piece(in, how, start, n, past_caches, 1, out);
      else
        make_piece(in, how, start, n, past_caches, 0, out);
      if (waits && has_stalled(&since)) {
        do_without(out + first * piece,
                   (start - first * piece) * (int64_t)sizeof(value));
        waits = 0;
      }
    }
    if (past_caches) finish_streams();
  }
}

/* y = scale * (x - near) + shift, and max(y, 0) with `relu`. */
void sweeps_affine(const value *x, int64_t samples, int64_t channels,
                   int64_t size, int64_t last, const float *near,
                   const float *scale, const float *shift, int64_t relu,
                   value *y, int64_t most_threads) {
  const layout in = {samples, channels, size, last};
  const recipe how = {.x = x, .line = {near, scale, shift}, .relu = relu != 0};
  write_all(in, &how, y, most_threads);
}

/* dx = scale * dy + slope * (x - near) + shift, where dy counts behind the
 * ReLU of `gate_scale` and `gate_shift` unless these are NULL. */
void sweeps_combine(const value *dy, const value *x, int64_t samples,
                    int64_t channels, int64_t size, int64_t last,
                    const float *scale, const float *near, const float *slope,
                    const float *shift, const float *gate_scale,
                    const float *gate_shift, value *dx, int64_t most_threads) {
  const layout in = {samples, channels, size, last};
  const recipe how = {.dy = dy,
                      .x = x,
                      .scale = scale,
                      .line = {near, slope, shift},
                      .gate = {near, gate_scale, gate_shift},
                      .relu = gate_scale != NULL};
  write_all(in, &how, dx, most_threads);
}
