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

/* On fewer values than this, threads cost more than they save. */
#define GRAIN 32768
/* Channels that one thread sums at a time. */
#define CHUNK 64
/* Outputs from this many bytes on ask for huge pages. */
#define HUGE_BYTES (4 << 20)
#define HUGE_PAGE ((uintptr_t)2 << 20)

/* Which rows a statistic pools. GIVEN ones come from elsewhere. */
enum { ROW, SAMPLE, BATCH, GIVEN };

/* One statistic. Row (n, c) has the pooled index n * stride + c / width. */
typedef struct {
  int64_t kind, stride, width;
  double *mean, *var;     /* pooled moments; unused for ROW */
  double *d_mean, *d_var; /* backward: see sn_reduce and sn_input_grad */
} statistic;

/* The mixture: statistics and, for every channel, its ratios. */
typedef struct {
  int64_t n, c, k;
  const statistic *statistics;
  const double *moments; /* (2, N, C) */
  double *ratios;        /* (2, K, C), means' and variances' */
  int32_t *columns;      /* (K, C), c / width */
} mixture;

static mixture make_mixture(int64_t n, int64_t c, int64_t k,
                            const statistic *statistics, const double *moments,
                            const double *ratios, int64_t groups) {
  mixture m = {n, c, k, statistics, moments, NULL, NULL};
  m.ratios = malloc(2 * k * c * sizeof(double));
  m.columns = malloc(k * c * sizeof(int32_t));
  for (int64_t j = 0; j < k; j++) {
    const int64_t width = statistics[j].width, per_group = c / groups;
    for (int64_t i = 0; i < c; i += width)
      for (int64_t e = i; e < i + width; e++) m.columns[j * c + e] = i / width;
    for (int64_t g = 0; g < groups; g++)
      for (int64_t i = g * per_group; i < (g + 1) * per_group; i++) {
        m.ratios[j * c + i] = ratios[g * k + j];
        m.ratios[(k + j) * c + i] = ratios[(groups + g) * k + j];
      }
  }
  return m;
}

static void free_mixture(mixture m) {
  free(m.ratios);
  free(m.columns);
}

static inline int64_t pooled_index(const mixture *m, int64_t j, int64_t n,
                                   int64_t c) {
  return n * m->statistics[j].stride + m->columns[j * m->c + c];
}

/* Statistic j's mean and variance for row (n, c). */
static inline void moments_of(const mixture *m, int64_t j, int64_t n,
                              int64_t c, double *mean, double *var) {
  const statistic *s = m->statistics + j;
  if (s->kind == ROW) {
    *mean = m->moments[n * m->c + c];
    *var = m->moments[(m->n + n) * m->c + c];
  } else {
    const int64_t i = pooled_index(m, j, n, c);
    *mean = s->mean[i];
    *var = s->var[i];
  }
}

/* What row (n, c) is normalized with. */
static inline void mix(const mixture *m, int64_t n, int64_t c, double *mean,
                       double *var) {
  double mu = 0, v = 0;
  for (int64_t j = 0; j < m->k; j++) {
    double a, b;
    moments_of(m, j, n, c, &a, &b);
    mu += m->ratios[j * m->c + c] * a;
    v += m->ratios[(m->k + j) * m->c + c] * b;
  }
  *mean = mu;
  *var = v;
}

/* Fewer page faults on a fresh large output. Only advice: failing is fine. */
static void advise(float *out, int64_t values) {
#ifdef MADV_HUGEPAGE
  const uintptr_t start = (uintptr_t)out, end = start + values * sizeof(float);
  const uintptr_t first = (start + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
  const uintptr_t last = end & ~(HUGE_PAGE - 1);
  if (end - start >= HUGE_BYTES && last > first)
    madvise((void *)first, last - first, MADV_HUGEPAGE);
#else
  (void)out, (void)values;
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

static inline void spread_moments(const float *row, int64_t size,
                                  double spread, double *mean, double *var) {
  const int64_t first = shorter(BLOCK, size);
  row_moments(row, size, first, 1. / first, mean, var);
  *var *= spread;
}

/* Moments of every row, the variance times `spread`, and pooled ones. */
void sn_collect(const float *x, int64_t n, int64_t c, int64_t size,
                double spread, const statistic *statistics, int64_t k,
                double *moments, int threads) {
  const int64_t count = n * c;
#pragma omp parallel num_threads(threads) if (count * size > GRAIN)
  {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < count; r++)
      spread_moments(x + r * size, size, spread, moments + r,
                     moments + count + r);
    for (int64_t j = 0; j < k; j++) {
      const statistic *s = statistics + j;
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

/* y = weight * (x - mu) / sqrt(var + eps) + bias. weight and bias, one value
 * a channel, may be NULL. `near` is the row's own mean as a float: x - near
 * does not cancel, and the constant term makes up for the difference. */
void sn_apply(const float *x, int64_t n, int64_t c, int64_t size,
              const double *moments, const statistic *statistics, int64_t k,
              const double *ratios, int64_t groups, const float *weight,
              const float *bias, double eps, float *y, int threads) {
  const mixture m = make_mixture(n, c, k, statistics, moments, ratios, groups);
  advise(y, n * c * size);
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads) \
    if (n * c * size > GRAIN)
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < c; j++) {
      const int64_t r = i * c + j;
      const float *in = x + r * size;
      float *out = y + r * size;
      double mu, var;
      mix(&m, i, j, &mu, &var);
      const double scale = (weight ? weight[j] : 1.) / sqrt(var + eps);
      const float near = moments[r], a = scale;
      const float b = (bias ? bias[j] : 0.) - scale * (mu - near);
#pragma omp simd
      for (int64_t e = 0; e < size; e++) out[e] = a * (in[e] - near) + b;
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

/* Of channels [start, end): d_weight and d_bias (2, C), gradients of each
 * channel's ratios (2, K, C), and BN's d_mean and d_var. */
static void sum_channels(const mixture *m, const double *sums,
                         const float *weight, int64_t start, int64_t end,
                         float *d_affine, double *d_ratios) {
  const int64_t count = m->n * m->c, width = end - start;
  double d_weight[CHUNK] = {0}, d_bias[CHUNK] = {0};
  double d_mu[CHUNK] = {0}, d_var[CHUNK] = {0};
  for (int64_t j = 0; j < m->k; j++) {
    memset(d_ratios + j * m->c + start, 0, width * sizeof(double));
    memset(d_ratios + (m->k + j) * m->c + start, 0, width * sizeof(double));
  }
  for (int64_t i = 0; i < m->n; i++) {
    double g_mu[CHUNK], g_var[CHUNK];
    for (int64_t e = 0; e < width; e++) {
      const int64_t r = i * m->c + start + e;
      d_bias[e] += sums[r];
      d_weight[e] += sums[count + r];
      mixed_grad(sums, count, r, weight ? weight[start + e] : 1., g_mu + e,
                 g_var + e);
      d_mu[e] += g_mu[e];
      d_var[e] += g_var[e];
    }
    for (int64_t j = 0; j < m->k; j++)
      for (int64_t e = 0; e < width; e++) {
        double mean, var;
        moments_of(m, j, i, start + e, &mean, &var);
        d_ratios[j * m->c + start + e] += g_mu[e] * mean;
        d_ratios[(m->k + j) * m->c + start + e] += g_var[e] * var;
      }
  }
  for (int64_t e = 0; e < width; e++) {
    d_affine[start + e] = d_weight[e];
    d_affine[m->c + start + e] = d_bias[e];
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

/* (2, K, C) to (2, G, K): a group's channels share their ratios. */
static void sum_groups(const mixture *m, const double *by_channel,
                       int64_t groups, double *d_ratios) {
  const int64_t width = m->c / groups;
  for (int64_t h = 0; h < 2; h++)
    for (int64_t g = 0; g < groups; g++)
      for (int64_t j = 0; j < m->k; j++) {
        const double *from = by_channel + (h * m->k + j) * m->c + g * width;
        double sum = 0;
        for (int64_t e = 0; e < width; e++) sum += from[e];
        d_ratios[(h * groups + g) * m->k + j] = sum;
      }
}

/* Everything of the backward but x's gradient.
 *
 * Of every row, into `sums` (3, N, C): sum(dy), sum(dy * (x - mu)) * rstd and
 * rstd = 1 / sqrt(var + eps). Then d_affine (2, C), of weight and bias,
 * d_ratios (2, G, K), and into each statistic's d_mean and d_var the sums of
 * its gradients over the rows that it pools. With `fresh`, `moments` are
 * computed anew and written. */
void sn_reduce(const float *dy, const float *x, int64_t n, int64_t c,
               int64_t size, double spread, double *moments, int fresh,
               const statistic *statistics, int64_t k, const double *ratios,
               int64_t groups, const float *weight, double eps, double *sums,
               float *d_affine, double *d_ratios, int threads) {
  const mixture m = make_mixture(n, c, k, statistics, moments, ratios, groups);
  const int64_t count = n * c;
  double *by_channel = malloc(2 * k * c * sizeof(double));
#pragma omp parallel num_threads(threads) if (count * size > GRAIN)
  {
#pragma omp for collapse(2) schedule(static)
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = 0; j < c; j++) {
        const int64_t r = i * c + j;
        const float *in = x + r * size;
        if (fresh)
          spread_moments(in, size, spread, moments + r, moments + count + r);
        double s0, s1, mu, var;
        const float near = moments[r];
        row_products(dy + r * size, in, size, near, &s0, &s1);
        mix(&m, i, j, &mu, &var);
        const double rstd = 1 / sqrt(var + eps);
        sums[r] = s0;
        sums[count + r] = (s1 - (mu - near) * s0) * rstd;
        sums[2 * count + r] = rstd;
      }
#pragma omp for schedule(static) nowait
    for (int64_t start = 0; start < c; start += CHUNK)
      sum_channels(&m, sums, weight, start, shorter(c, start + CHUNK),
                   d_affine, by_channel);
    for (int64_t j = 0; j < k; j++) {
      if (statistics[j].kind != SAMPLE) continue;
#pragma omp for schedule(static) nowait
      for (int64_t i = 0; i < n; i++) sum_sample(&m, j, i, sums, weight);
    }
  }
  sum_groups(&m, by_channel, groups, d_ratios);
  free(by_channel);
  free_mixture(m);
}

/* Gradient of a row's own moments: Eq. 6 to 14. A pooled variance holds
 * mean((m - mu)^2), which pulls on m as well. */
static inline void moments_grad(const mixture *m, int64_t n, int64_t c,
                                double g_mu, double g_var, double *d_m,
                                double *d_v) {
  const double own = m->moments[n * m->c + c];
  double a = 0, b = 0;
  for (int64_t j = 0; j < m->k; j++) {
    const statistic *s = m->statistics + j;
    if (s->kind == ROW) {
      a += m->ratios[j * m->c + c] * g_mu;
      b += m->ratios[(m->k + j) * m->c + c] * g_var;
    } else if (s->kind != GIVEN) {
      const int64_t i = pooled_index(m, j, n, c);
      a += s->d_mean[i] + 2 * (own - s->mean[i]) * s->d_var[i];
      b += s->d_var[i];
    }
  }
  *d_m = a;
  *d_v = b;
}

/* dx = scale * dy + (d_m + 2 * d_v * (x - m)) / S. d_mean and d_var of the
 * statistics now hold each pooled row's share in their gradient. */
void sn_input_grad(const float *dy, const float *x, int64_t n, int64_t c,
                   int64_t size, double spread, const double *moments,
                   const statistic *statistics, int64_t k,
                   const double *ratios, int64_t groups, const float *weight,
                   const double *sums, float *dx, int threads) {
  const mixture m = make_mixture(n, c, k, statistics, moments, ratios, groups);
  const int64_t count = n * c;
  advise(dx, count * size);
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads) \
    if (count * size > GRAIN)
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < c; j++) {
      const int64_t r = i * c + j;
      const float *g = dy + r * size, *in = x + r * size;
      float *out = dx + r * size;
      const double w = weight ? weight[j] : 1.;
      double g_mu, g_var, d_m, d_v;
      mixed_grad(sums, count, r, w, &g_mu, &g_var);
      moments_grad(&m, i, j, g_mu, g_var, &d_m, &d_v);
      const double slope = 2 * spread * d_v / size;
      const float near = moments[r], a = w * sums[2 * count + r], b = slope;
      const float offset = d_m / size - slope * (moments[r] - near);
#pragma omp simd
      for (int64_t e = 0; e < size; e++)
        out[e] = a * g[e] + (b * (in[e] - near) + offset);
    }
  free_mixture(m);
}
