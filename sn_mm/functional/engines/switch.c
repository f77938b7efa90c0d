/* Copyright (c) sn_mm authors. Licensed under Apache-2.0.
 *
 * Switchable normalization of contiguous float32 x (N, C, S) in four sweeps:
 * collect and apply forward, reduce and input_grad backward. The mixture of
 * statistics is computed row by row on the way, in double, so that nothing
 * of x's size and few numbers a row are stored in between.
 *
 * A row is one (n, c): row n * C + c of S values. Arrays of rows hold all
 * first values (means), then all second ones (variances), and so on.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "rows.h"

#include "columns.h"

/* On fewer values than this, threads cost more than they save. */
#define GRAIN 32768
#define HUGE_PAGE ((uintptr_t)2 << 20)
#define MOST_STATISTICS 4

/* Which rows a statistic pools. GIVEN ones come from elsewhere. */
enum { ROW, SAMPLE, BATCH, GIVEN };

/* One statistic. Row (n, c) has the pooled index n * stride + c / width. */
typedef struct {
  int64_t kind, stride, width;
  int64_t rows;           /* that share the gradient of a pooled mean */
  double *mean, *var;     /* pooled moments; unused for ROW */
  double *d_mean, *d_var; /* backward: sums over the rows that were pooled */
} statistic;

/* x in memory: (N, C, S), or (N, S, C) with `last`. */
typedef struct {
  int64_t n, c, size, last;
} layout;

/* A layer and what it is given. Ratios are the softmax of `logits`, or these
 * themselves; (G, K), channels being in G groups. weight and bias, one value
 * a channel, may be NULL. */
typedef struct {
  layout x;
  int64_t k, groups, softmax;
  const float *logits[2]; /* means' and variances' */
  const float *weight, *bias;
  double eps;
  double spread;   /* by which the rows' own variance is multiplied */
  double *moments; /* (2, N, C) */
  statistic statistics[MOST_STATISTICS];
} layer;

/* The mixture: statistics and, for every channel, its ratios. */
typedef struct {
  int64_t n, c, k;
  const statistic *statistics;
  const double *moments; /* (2, N, C) */
  double *shared;        /* (2, G, K), a group's ratios */
  double *ratios;        /* (2, K, C), means' and variances' */
  int32_t *columns;      /* (K, C), c / width */
} mixture;

/* Logits (K) to ratios, without ROW on a single position. In double: ratios
 * that add up to 1 in float only spoil the gradients where means are large. */
static void softmax(const layer *l, double *ratios) {
  double largest = -INFINITY, sum = 0;
  for (int64_t j = 0; j < l->k; j++) {
    if (l->x.size == 1 && l->k > 1 && l->statistics[j].kind == ROW)
      ratios[j] = -INFINITY;
    if (ratios[j] > largest) largest = ratios[j];
  }
  for (int64_t j = 0; j < l->k; j++) sum += ratios[j] = exp(ratios[j] - largest);
  for (int64_t j = 0; j < l->k; j++) ratios[j] /= sum;
}

static mixture make_mixture(const layer *l) {
  const int64_t c = l->x.c, k = l->k, groups = l->groups, each = c / groups;
  mixture m = {l->x.n, c, k, l->statistics, l->moments, NULL, NULL, NULL};
  m.shared = malloc(2 * k * groups * sizeof(double));
  m.ratios = malloc(2 * k * c * sizeof(double));
  m.columns = malloc(k * c * sizeof(int32_t));
  for (int64_t h = 0; h < 2; h++)
    for (int64_t g = 0; g < groups; g++) {
      double *ratios = m.shared + (h * groups + g) * k;
      for (int64_t j = 0; j < k; j++) ratios[j] = l->logits[h][g * k + j];
      if (l->softmax) softmax(l, ratios);
      for (int64_t j = 0; j < k; j++)
        for (int64_t e = 0; e < each; e++)
          m.ratios[(h * k + j) * c + g * each + e] = ratios[j];
    }
  for (int64_t j = 0; j < k; j++) {
    const int64_t width = l->statistics[j].width;
    for (int64_t i = 0; i < c; i += width)
      for (int64_t e = i; e < i + width; e++) m.columns[j * c + e] = i / width;
  }
  return m;
}

static void free_mixture(mixture m) {
  free(m.shared);
  free(m.ratios);
  free(m.columns);
}

/* x as chunks of channels of one sample. Of many channels where rows are
 * short, since the numbers of a row then cost as much as the row, and where
 * channels come last; but some for every thread. */
typedef struct {
  layout x;
  int64_t width, per_sample, count;
} chunks;

static chunks make_chunks(layout x, int threads) {
  int64_t width = CHUNK;
  if (x.last)
    while (width > LANES && x.n * ((x.c + width - 1) / width) < threads)
      width /= 2;
  else
    width = shorter(x.size < 8192 ? 8192 / x.size : 1, CHUNK);
  const int64_t per_sample = (x.c + width - 1) / width;
  return (chunks){x, width, per_sample, x.n * per_sample};
}

/* Chunk number `index`: sample n, channels [start, start + width), of which
 * the first is row `row`, and its first value number `first`. */
typedef struct {
  int64_t n, start, width, row, first;
} chunk;

static inline chunk chunk_at(const chunks *all, int64_t index) {
  const int64_t c = all->x.c, size = all->x.size;
  const int64_t n = index / all->per_sample;
  const int64_t start = (index - n * all->per_sample) * all->width;
  const int64_t row = n * c + start;
  return (chunk){n, start, shorter(all->width, c - start), row,
                 all->x.last ? n * c * size + start : row * size};
}

/* Thread t of `threads` always works on the same chunks, [share(t), share(t +
 * 1)), of which its cache may still hold some. */
static inline int64_t share(const chunks *all, int t, int threads) {
  return all->count * t / threads;
}

/* Statistic j's mean and variance for the rows of a chunk. */
static inline void moments_of(const mixture *m, int64_t j, chunk at,
                              double *mean, double *var) {
  const statistic *s = m->statistics + j;
  const int32_t *column = m->columns + j * m->c + at.start;
  const double *means = m->moments + at.row;
  const double *vars = means + m->n * m->c;
  if (s->kind != ROW) {
    means = s->mean + at.n * s->stride;
    vars = s->var + at.n * s->stride;
    if (s->kind == SAMPLE) {
      for (int64_t e = 0; e < at.width; e++) {
        mean[e] = means[column[e]];
        var[e] = vars[column[e]];
      }
      return;
    }
    means += at.start;
    vars += at.start;
  }
  memcpy(mean, means, at.width * sizeof(double));
  memcpy(var, vars, at.width * sizeof(double));
}

/* What those rows are normalized with. */
static inline void mix(const mixture *m, chunk at, double *mu, double *var) {
  for (int64_t e = 0; e < at.width; e++) mu[e] = var[e] = 0;
  for (int64_t j = 0; j < m->k; j++) {
    const double *of_mean = m->ratios + j * m->c + at.start;
    const double *of_var = of_mean + m->k * m->c;
    double means[CHUNK], vars[CHUNK];
    moments_of(m, j, at, means, vars);
    for (int64_t e = 0; e < at.width; e++) {
      mu[e] += of_mean[e] * means[e];
      var[e] += of_var[e] * vars[e];
    }
  }
}

/* Fewer page faults on a fresh large output. Only advice: failing is fine. */
static void advise(void *out, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  const uintptr_t start = (uintptr_t)out, end = start + bytes;
  const uintptr_t first = (start + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
  const uintptr_t last = end & ~(HUGE_PAGE - 1);
  if (last > first)
    madvise((void *)first, last - first, MADV_HUGEPAGE);
#else
  (void)out, (void)bytes;
#endif
}

/* LN's or GN's moments of sample n: mean(m) and mean(v) + var(m) over runs
 * of `width` rows, in the form that does not cancel. */
static void pool_sample(const statistic *s, int64_t n, const double *mean,
                        const double *var, int64_t channels) {
  for (int64_t i = 0; i < channels; i += s->width) {
    double sum = 0, within = 0, between = 0;
    for (int64_t c = i; c < i + s->width; c++) {
      sum += mean[c];
      within += var[c];
    }
    const double mu = sum / s->width;
    for (int64_t c = i; c < i + s->width; c++)
      between += (mean[c] - mu) * (mean[c] - mu);
    s->mean[n * s->stride + i / s->width] = mu;
    s->var[n * s->stride + i / s->width] = (within + between) / s->width;
  }
}

/* BN's moments of channels [start, end). */
static void pool_batch(const statistic *s, int64_t n, int64_t channels,
                       int64_t start, int64_t end, const double *moments) {
  const double *means = moments, *vars = moments + n * channels;
  double sum[CHUNK] = {0}, squares[CHUNK] = {0};
  const int64_t count = end - start;
  for (int64_t i = 0; i < n; i++)
    for (int64_t c = 0; c < count; c++)
      sum[c] += means[i * channels + start + c];
  for (int64_t c = 0; c < count; c++) sum[c] /= n;
  for (int64_t i = 0; i < n; i++)
    for (int64_t c = 0; c < count; c++) {
      const double d = means[i * channels + start + c] - sum[c];
      squares[c] += vars[i * channels + start + c] + d * d;
    }
  for (int64_t c = 0; c < count; c++) {
    s->mean[start + c] = sum[c];
    s->var[start + c] = squares[c] / n;
  }
}

/* Moments of a chunk's rows. */
static inline void chunk_moments(layout in, chunk at, const float *x,
                                 double *mean, double *var) {
  const int64_t size = in.size;
  int64_t r = 0;
  x += at.first;
  if (in.last) {
    column_moments(x, size, in.c, at.width, mean, var);
    return;
  }
  if (by_four(size))
    for (; r + 4 <= at.width; r += 4)
      four_moments(x + r * size, size, mean + r, var + r);
  for (; r < at.width; r++) row_moments(x + r * size, size, mean + r, var + r);
}

/* Moments of every row, and pooled ones. */
void sn_collect(const layer *l, const float *x, int threads) {
  const int64_t n = l->x.n, c = l->x.c, count = n * c;
  double *moments = l->moments;
  const chunks all = make_chunks(l->x, threads);
#pragma omp parallel num_threads(threads) if (count * l->x.size > GRAIN)
  {
#pragma omp for schedule(static, 1)
    for (int t = 0; t < threads; t++)
      for (int64_t i = share(&all, t, threads); i < share(&all, t + 1, threads);
           i++) {
        const chunk at = chunk_at(&all, i);
        chunk_moments(all.x, at, x, moments + at.row,
                      moments + count + at.row);
        for (int64_t r = at.row; r < at.row + at.width; r++)
          moments[count + r] *= l->spread;
      }
    for (int64_t j = 0; j < l->k; j++) {
      const statistic *s = l->statistics + j;
      if (s->kind == SAMPLE) {
#pragma omp for schedule(static) nowait
        for (int64_t i = 0; i < n; i++)
          pool_sample(s, i, moments + i * c, moments + count + i * c, c);
      } else if (s->kind == BATCH) {
#pragma omp for schedule(static) nowait
        for (int64_t start = 0; start < c; start += CHUNK)
          pool_batch(s, n, c, start, shorter(c, start + CHUNK), moments);
      }
    }
  }
}

/* y = weight * (x - mu) / sqrt(var + eps) + bias. `near` is the row's own
 * mean as a float: x - near does not cancel, and the constant term makes up
 * for the difference. */
void sn_apply(const layer *l, const float *x, float *y, int threads) {
  const int64_t c = l->x.c, size = l->x.size, values = l->x.n * c * size;
  const float *weight = l->weight, *bias = l->bias;
  const mixture m = make_mixture(l);
  const chunks all = make_chunks(l->x, threads);
  advise(y, values * sizeof(float));
#pragma omp parallel for schedule(static, 1) num_threads(threads) \
    if (values > GRAIN)
  for (int t = 0; t < threads; t++)
    for (int64_t i = share(&all, t, threads); i < share(&all, t + 1, threads);
         i++) {
      const chunk at = chunk_at(&all, i);
      double mu[CHUNK], var[CHUNK];
      float near[CHUNK], scale[CHUNK], constant[CHUNK];
      mix(&m, at, mu, var);
      for (int64_t e = 0; e < at.width; e++) {
        const int64_t channel = at.start + e;
        const double w = weight ? weight[channel] : 1.;
        const double a = w / sqrt(var[e] + l->eps);
        near[e] = l->moments[at.row + e];
        scale[e] = a;
        constant[e] = (bias ? bias[channel] : 0.) - a * (mu[e] - near[e]);
      }
      const float *in = x + at.first;
      float *out = y + at.first;
      if (l->x.last)
        column_affine(in, size, c, at.width, near, scale, constant, out);
      else
        for (int64_t e = 0; e < at.width; e++, in += size, out += size)
          row_affine(in, size, near[e], scale[e], constant[e], out);
    }
  free_mixture(m);
}

/* Gradient of a row's mixed mean and variance from `sums` (3, N, C). */
static inline void mixed_grad(const double *sums, int64_t count, int64_t r,
                              double weight, double *d_mu, double *d_var) {
  const double rstd = sums[2 * count + r], scale = weight * rstd;
  *d_mu = -scale * sums[r];
  *d_var = -0.5 * scale * rstd * sums[count + r];
}

/* Of channels [start, end): gradients of weight and bias (C), of each
 * channel's ratios (2, K, C), and BN's d_mean and d_var. */
static void sum_channels(const mixture *m, const double *sums,
                         const float *weight, int64_t start, int64_t end,
                         float *of_weight, float *of_bias, double *d_ratios) {
  const int64_t count = m->n * m->c, width = end - start;
  double d_weight[CHUNK] = {0}, d_bias[CHUNK] = {0};
  double d_mu[CHUNK] = {0}, d_var[CHUNK] = {0};
  for (int64_t j = 0; j < m->k; j++) {
    memset(d_ratios + j * m->c + start, 0, width * sizeof(double));
    memset(d_ratios + (m->k + j) * m->c + start, 0, width * sizeof(double));
  }
  for (int64_t i = 0; i < m->n; i++) {
    const chunk at = {i, start, width, i * m->c + start, 0};
    double g_mu[CHUNK], g_var[CHUNK];
    for (int64_t e = 0; e < width; e++) {
      const int64_t r = at.row + e;
      d_bias[e] += sums[r];
      d_weight[e] += sums[count + r];
      mixed_grad(sums, count, r, weight ? weight[start + e] : 1., g_mu + e,
                 g_var + e);
      d_mu[e] += g_mu[e];
      d_var[e] += g_var[e];
    }
    for (int64_t j = 0; j < m->k; j++) {
      double *of_mean = d_ratios + j * m->c + start;
      double *of_var = of_mean + m->k * m->c;
      double means[CHUNK], vars[CHUNK];
      moments_of(m, j, at, means, vars);
      for (int64_t e = 0; e < width; e++) {
        of_mean[e] += g_mu[e] * means[e];
        of_var[e] += g_var[e] * vars[e];
      }
    }
  }
  for (int64_t e = 0; e < width; e++) {
    of_weight[start + e] = d_weight[e];
    of_bias[start + e] = d_bias[e];
  }
  for (int64_t j = 0; j < m->k; j++) {
    const statistic *s = m->statistics + j;
    if (s->kind != BATCH) continue;
    for (int64_t e = start; e < end; e++) {
      s->d_mean[e] = m->ratios[j * m->c + e] * d_mu[e - start];
      s->d_var[e] = m->ratios[(m->k + j) * m->c + e] * d_var[e - start];
    }
  }
}

/* LN's or GN's d_mean and d_var of sample n. */
static void sum_sample(const mixture *m, int64_t j, int64_t n,
                       const double *sums, const float *weight) {
  const statistic *s = m->statistics + j;
  const double *of_mean = m->ratios + j * m->c;
  const double *of_var = m->ratios + (m->k + j) * m->c;
  for (int64_t i = 0; i < m->c; i += s->width) {
    double d_mean = 0, d_var = 0;
    for (int64_t c = i; c < i + s->width; c++) {
      double g_mu, g_var;
      mixed_grad(sums, m->n * m->c, n * m->c + c, weight ? weight[c] : 1.,
                 &g_mu, &g_var);
      d_mean += of_mean[c] * g_mu;
      d_var += of_var[c] * g_var;
    }
    s->d_mean[n * s->stride + i / s->width] = d_mean;
    s->d_var[n * s->stride + i / s->width] = d_var;
  }
}

/* Gradients of the logits (G, K) from those of every channel's ratios
 * (2, K, C): a group's channels share theirs. */
static void sum_groups(const layer *l, const mixture *m,
                       const double *by_channel, float *const *d_logits) {
  const int64_t width = m->c / l->groups;
  for (int64_t h = 0; h < 2; h++)
    for (int64_t g = 0; g < l->groups; g++) {
      const double *ratios = m->shared + (h * l->groups + g) * m->k;
      double sums[MOST_STATISTICS], mean = 0;
      for (int64_t j = 0; j < m->k; j++) {
        const double *from = by_channel + (h * m->k + j) * m->c + g * width;
        sums[j] = 0;
        for (int64_t e = 0; e < width; e++) sums[j] += from[e];
        mean += ratios[j] * sums[j];
      }
      for (int64_t j = 0; j < m->k; j++)
        d_logits[h][g * m->k + j] =
            l->softmax ? ratios[j] * (sums[j] - mean) : sums[j];
    }
}

/* A chunk's share of sn_reduce. */
static inline void reduce_chunk(const layer *l, const mixture *m, chunk at,
                                const float *dy, const float *x, int fresh,
                                double *sums) {
  const layout in = l->x;
  const int64_t count = m->n * m->c, size = in.size;
  double s0[CHUNK], s1[CHUNK], mu[CHUNK], var[CHUNK];
  double *mean = l->moments + at.row, *var_of = mean + count;
  float near[CHUNK];
  x += at.first;
  dy += at.first;
  if (in.last) {
    if (fresh) column_moments(x, size, in.c, at.width, mean, var_of);
    for (int64_t e = 0; e < at.width; e++) near[e] = mean[e];
    column_products(dy, x, size, in.c, at.width, near, s0, s1);
  } else
    for (int64_t e = 0; e < at.width; e++, x += size, dy += size) {
      if (fresh) {
        near[e] = row_all(dy, x, size, mean + e, var_of + e, s0 + e, s1 + e);
      } else {
        near[e] = mean[e];
        row_products(dy, x, size, near[e], s0 + e, s1 + e);
      }
    }
  for (int64_t e = 0; fresh && e < at.width; e++)
    var_of[e] *= l->spread;
  mix(m, at, mu, var);
  for (int64_t e = 0; e < at.width; e++) {
    const int64_t r = at.row + e;
    const double rstd = 1 / sqrt(var[e] + l->eps);
    sums[r] = s0[e];
    sums[count + r] = (s1[e] - (mu[e] - near[e]) * s0[e]) * rstd;
    sums[2 * count + r] = rstd;
  }
}

/* Everything of the backward but x's gradient.
 *
 * Of every row, into `sums` (3, N, C): sum(dy), sum(dy * (x - mu)) * rstd and
 * rstd = 1 / sqrt(var + eps). Then d_weight and d_bias (C), the gradients of
 * both moments' logits (G, K), and into each statistic's d_mean and d_var the
 * sums of its gradients over the rows that it pools. With `fresh`, the moments are
 * computed anew and written, in the same sweep. */
void sn_reduce(const layer *l, const float *dy, const float *x, int fresh,
               double *sums, float *d_weight, float *d_bias,
               float *d_mean_logits, float *d_var_logits, int threads) {
  const int64_t n = l->x.n, c = l->x.c, count = n * c;
  const mixture m = make_mixture(l);
  const chunks all = make_chunks(l->x, threads);
  double *by_channel = malloc(2 * m.k * c * sizeof(double));
#pragma omp parallel num_threads(threads) if (count * l->x.size > GRAIN)
  {
#pragma omp for schedule(static, 1)
    for (int t = 0; t < threads; t++)
      for (int64_t i = share(&all, t, threads); i < share(&all, t + 1, threads);
           i++)
        reduce_chunk(l, &m, chunk_at(&all, i), dy, x, fresh, sums);
#pragma omp for schedule(static) nowait
    for (int64_t start = 0; start < c; start += CHUNK)
      sum_channels(&m, sums, l->weight, start, shorter(c, start + CHUNK),
                   d_weight, d_bias, by_channel);
    for (int64_t j = 0; j < m.k; j++) {
      if (m.statistics[j].kind != SAMPLE) continue;
#pragma omp for schedule(static) nowait
      for (int64_t i = 0; i < n; i++) sum_sample(&m, j, i, sums, l->weight);
    }
  }
  sum_groups(l, &m, by_channel, (float *[]){d_mean_logits, d_var_logits});
  free(by_channel);
  free_mixture(m);
}

/* Gradients of a chunk's own moments: Eq. 6 to 14. A pooled variance holds
 * mean((m - mu)^2), which pulls on m as well. */
static inline void moments_grad(const mixture *m, chunk at,
                                const double *g_mu, const double *g_var,
                                double *d_m, double *d_v) {
  const double *own = m->moments + at.row;
  for (int64_t e = 0; e < at.width; e++) d_m[e] = d_v[e] = 0;
  for (int64_t j = 0; j < m->k; j++) {
    const statistic *s = m->statistics + j;
    const double *of_mean = m->ratios + j * m->c + at.start;
    const double *of_var = of_mean + m->k * m->c;
    const int32_t *column = m->columns + j * m->c + at.start;
    const int64_t first = at.n * s->stride;
    if (s->kind == ROW) {
      for (int64_t e = 0; e < at.width; e++) {
        d_m[e] += of_mean[e] * g_mu[e];
        d_v[e] += of_var[e] * g_var[e];
      }
    } else if (s->kind != GIVEN) {
      const double part = 1. / s->rows;
      for (int64_t e = 0; e < at.width; e++) {
        const int64_t i = first + column[e];
        const double share = part * s->d_var[i];
        d_m[e] += part * s->d_mean[i] + 2 * (own[e] - s->mean[i]) * share;
        d_v[e] += share;
      }
    }
  }
}

/* dx = scale * dy + (d_m + 2 * d_v * (x - m)) / S. */
void sn_input_grad(const layer *l, const float *dy, const float *x,
                   const double *sums, float *dx, int threads) {
  const int64_t c = l->x.c, size = l->x.size, count = l->x.n * c;
  const mixture m = make_mixture(l);
  const chunks all = make_chunks(l->x, threads);
  advise(dx, count * size * sizeof(float));
#pragma omp parallel for schedule(static, 1) num_threads(threads) \
    if (count * size > GRAIN)
  for (int t = 0; t < threads; t++)
    for (int64_t i = share(&all, t, threads); i < share(&all, t + 1, threads);
         i++) {
      const chunk at = chunk_at(&all, i);
      double g_mu[CHUNK], g_var[CHUNK], d_m[CHUNK], d_v[CHUNK];
      float scale[CHUNK], near[CHUNK], slope[CHUNK], constant[CHUNK];
      for (int64_t e = 0; e < at.width; e++) {
        const double w = l->weight ? l->weight[at.start + e] : 1.;
        mixed_grad(sums, count, at.row + e, w, g_mu + e, g_var + e);
        scale[e] = w * sums[2 * count + at.row + e];
      }
      moments_grad(&m, at, g_mu, g_var, d_m, d_v);
      for (int64_t e = 0; e < at.width; e++) {
        const double own = l->moments[at.row + e];
        const double b = 2 * l->spread * d_v[e] / size;
        near[e] = own;
        slope[e] = b;
        constant[e] = d_m[e] / size - b * (own - near[e]);
      }
      const float *g = dy + at.first, *in = x + at.first;
      float *out = dx + at.first;
      if (l->x.last)
        column_combination(g, in, size, c, at.width, scale, near, slope,
                           constant, out);
      else
        for (int64_t e = 0; e < at.width;
             e++, g += size, in += size, out += size)
          row_combination(g, in, size, scale[e], near[e], slope[e],
                          constant[e], out);
    }
  free_mixture(m);
}

/* Running mean and var (C) a part `step` of the way towards the batch's
 * (2, C). With a third row, the number of positions: nothing if there is none.
 */
void sn_move(float *mean, float *var, int64_t *count, const double *batch,
             int64_t rows, int64_t c, double step) {
  if (rows > 2 && !(batch[2 * c] > 0)) return;
  *count += 1;
  for (int64_t i = 0; i < c; i++) {
    mean[i] += step * (batch[i] - mean[i]);
    var[i] += step * (batch[c + i] - var[i]);
  }
}
