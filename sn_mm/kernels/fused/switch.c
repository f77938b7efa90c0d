/* Copyright (c) sn_mm authors. Licensed under Apache-2.0.
 *
 * The numbers of Switchable Normalization: from the moments of the rows to
 * the factors that they are normalized with, and back. Luo et al.,
 * "Differentiable Learning-to-Normalize via Switchable Normalization", ICLR
 * 2019, Eq. 3 to 14.
 *
 * A row is one (n, c). Everything that depends on the sample alone (LN, GN)
 * or on the channel alone (BN, ratios, weight, bias) is computed once a
 * sample or once a channel. All in double: ratios that add up to 1 in float
 * only spoil the gradients where means are large.
 *
 * Glossary: `m` and `v` are a row's own mean and variance, `mu` and `var`
 * those that it is normalized with, `near` is m as a float, `scale` is
 * weight / sqrt(var + eps), `g_mu` and `g_var` are the gradients of mu and
 * var. Arrays of pairs hold all means, then all variances.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* Rows that are worked on at once. */
#define CHUNK 64
/* On fewer rows than this, threads cost more than they save. */
#define GRAIN 8192

/* A layer and where its numbers are. Python fills it in: switch_fields below
 * lets it check that both sides agree. */
typedef struct {
  int64_t samples, channels; /* N, C */
  int64_t count;             /* K, ratios */
  int64_t ratio_groups;      /* G, channel groups with ratios of their own */
  int64_t num_groups;        /* channel groups of GN */
  /* places among the ratios, -1 for a statistic that is not mixed */
  int64_t in, ln, bn, gn;
  int64_t softmax, drop_instance; /* see switch.py */
  int64_t given;                  /* whether BN's moments are constants */
  int64_t threads;
  double eps, bessel;
  double size;                           /* S, positions of a row */
  const float *mean_weight, *var_weight; /* (G, K) */
  const float *weight, *bias;            /* (C,) or NULL */
  const float *running_mean, *running_var; /* (C,), to be BN's, or NULL */
  const double *moments;                 /* (2, N, C) */
  double *ln_pool, *bn_pool, *gn_pool;   /* (2, N), (2, C), (2, N, groups) */
  double *ln_grad, *bn_grad, *gn_grad;   /* sums over the pooled rows */
  double *ratios;                        /* (2, K, G), scratch */
  double *by_channel;                    /* (CHANNEL_ARRAYS, C), scratch */
} layer;

#define FIELD(name) offsetof(layer, name)
const int64_t switch_fields[] = {
    sizeof(layer),     FIELD(samples),      FIELD(channels),
    FIELD(count),      FIELD(ratio_groups), FIELD(num_groups),
    FIELD(in),         FIELD(ln),           FIELD(bn),
    FIELD(gn),         FIELD(softmax),      FIELD(drop_instance),
    FIELD(given),      FIELD(threads),      FIELD(eps),
    FIELD(bessel),     FIELD(size),         FIELD(mean_weight),
    FIELD(var_weight), FIELD(weight),       FIELD(bias),
    FIELD(running_mean), FIELD(running_var),
    FIELD(moments),    FIELD(ln_pool),      FIELD(bn_pool),
    FIELD(gn_pool),    FIELD(ln_grad),      FIELD(bn_grad),
    FIELD(gn_grad),    FIELD(ratios),       FIELD(by_channel)};

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int threads_for(const layer *l) {
  return l->samples * l->channels > GRAIN ? l->threads : 1;
}

/* -- sums of doubles in a fixed order ------------------------------------ */

#define LANES 4
typedef double lanes __attribute__((vector_size(8 * LANES), aligned(8)));

static inline double sum(const double *x, int64_t n) {
  lanes even = {0}, odd = {0};
  int64_t i = 0;
  for (; i + 2 * LANES <= n; i += 2 * LANES) {
    even += *(const lanes *)(x + i);
    odd += *(const lanes *)(x + i + LANES);
  }
  even += odd;
  double t = (even[0] + even[2]) + (even[1] + even[3]);
  for (; i < n; i++) t += x[i];
  return t;
}

/* The sum of d and of d * d, d = x - centre. */
static inline void sum_squares(const double *x, int64_t n, double centre,
                               double *first, double *second) {
  lanes t0 = {0}, t1 = {0};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    const lanes d = *(const lanes *)(x + i) - centre;
    t0 += d;
    t1 += d * d;
  }
  double s0 = (t0[0] + t0[2]) + (t0[1] + t0[3]);
  double s1 = (t1[0] + t1[2]) + (t1[1] + t1[3]);
  for (; i < n; i++) {
    const double d = x[i] - centre;
    s0 += d;
    s1 += d * d;
  }
  *first = s0;
  *second = s1;
}

static inline double dot(const double *x, const double *y, int64_t n) {
  lanes even = {0};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    even += *(const lanes *)(x + i) * *(const lanes *)(y + i);
  double t = (even[0] + even[2]) + (even[1] + even[3]);
  for (; i < n; i++) t += x[i] * y[i];
  return t;
}

/* -- what depends on the channel alone ----------------------------------- */

/* Arrays (C,), each for the mean and then for the variance: */
enum {
  OWN,     /* the ratio of the row's own moment ('in') */
  BY_LN,   /* the ratio of LN's */
  BY_GN,   /* the ratio of GN's */
  FIXED,   /* what BN adds */
  BN_PART, /* backward: each row's share in the gradient of BN's moment */
  WEIGHT,  /* weight, and bias */
  /* sums over samples, see block_sums: */
  TOTAL,   /* of g; in a forward what makes BN's moments, with the next */
  OWN_SUM, /* of g times the row's own moment */
  PARAMS,  /* the gradients of weight and bias */
  PAIRS
};
#define SUMS (PAIRS - TOTAL)
/* Blocks of samples that are summed apart, at most, and their samples, at
 * least. They do not depend on the number of threads, nor do results. */
#define BLOCKS 8
#define BLOCK_SAMPLES 4
#define CHANNEL_ARRAYS (2 * (TOTAL + BLOCKS * SUMS))
const int64_t switch_channel_arrays = CHANNEL_ARRAYS;

static inline double *channel_array(const layer *l, int64_t which,
                                    int64_t moment) {
  return l->by_channel + (2 * which + moment) * l->channels;
}

static inline int64_t block_count(const layer *l) {
  const int64_t count = l->samples / BLOCK_SAMPLES;
  return count < 1 ? 1 : smaller(count, BLOCKS);
}

/* The first sample of a block. */
static inline int64_t block_start(const layer *l, int64_t block) {
  return block * l->samples / block_count(l);
}

/* A block's sums; those of the first become those of all samples. */
static inline double *block_sums(const layer *l, int64_t block, int64_t which,
                                 int64_t moment) {
  return channel_array(l, which + block * SUMS, moment);
}

static void clear_sums(const layer *l, int64_t block) {
  double *sums = block_sums(l, block, TOTAL, 0);
  for (int64_t i = 0; i < 2 * SUMS * l->channels; i++) sums[i] = 0;
}

static void merge_sums(const layer *l) {
  double *restrict all = block_sums(l, 0, TOTAL, 0);
  for (int64_t b = 1; b < block_count(l); b++) {
    const double *restrict sums = block_sums(l, b, TOTAL, 0);
    for (int64_t i = 0; i < 2 * SUMS * l->channels; i++) all[i] += sums[i];
  }
}

/* -- pooling ------------------------------------------------------------- */

/* The moments of `n` neighbouring rows together: mean(m) and mean(v) +
 * var(m), centred on one of them so that nothing cancels. */
static void pool_rows(const double *m, const double *v, int64_t n,
                      double bessel, double *mean, double *var) {
  double offset, squares;
  sum_squares(m, n, m[0], &offset, &squares);
  *mean = m[0] + offset / n;
  *var = (bessel * sum(v, n) + squares - offset * offset / n) / n;
}

/* Add a sample's rows to a block's sums of offsets from the first sample,
 * their squares, and variances. */
static void add_sample(const layer *l, int64_t n, int64_t block) {
  const int64_t c = l->channels;
  const double *restrict centre = l->moments;
  const double *restrict m = l->moments + n * c;
  const double *restrict v = m + l->samples * c;
  double *restrict offset = block_sums(l, block, TOTAL, 0);
  double *restrict squares = block_sums(l, block, TOTAL, 1);
  double *restrict within = block_sums(l, block, OWN_SUM, 0);
  for (int64_t i = 0; i < c; i++) {
    const double d = m[i] - centre[i];
    offset[i] += d;
    squares[i] += d * d;
    within[i] += v[i];
  }
}

/* BN's moments of these sums. */
static void pool_batch(const layer *l) {
  const double *offset = channel_array(l, TOTAL, 0);
  const double *squares = channel_array(l, TOTAL, 1);
  const double *within = channel_array(l, OWN_SUM, 0);
  const double part = 1. / l->samples;
  for (int64_t i = 0; i < l->channels; i++) {
    const double between = squares[i] - offset[i] * offset[i] * part;
    l->bn_pool[i] = l->moments[i] + offset[i] * part;
    l->bn_pool[l->channels + i] = (l->bessel * within[i] + between) * part;
  }
}

/* Every pooled statistic that is not given. */
void switch_pool(const layer *l) {
  const int64_t c = l->channels, rows = l->samples * c;
  const int64_t groups = l->num_groups, width = c / groups;
  const int batch = l->bn >= 0 && !l->given;
#pragma omp parallel for schedule(static) \
    num_threads(threads_for(l)) if (threads_for(l) > 1)
  for (int64_t block = 0; block < block_count(l); block++) {
    if (batch) clear_sums(l, block);
    for (int64_t n = block_start(l, block); n < block_start(l, block + 1);
         n++) {
      const double *m = l->moments + n * c;
      if (batch) add_sample(l, n, block);
      if (l->ln >= 0)
        pool_rows(m, m + rows, c, l->bessel, l->ln_pool + n,
                  l->ln_pool + l->samples + n);
      for (int64_t g = 0; l->gn >= 0 && g < groups; g++) {
        double *pool = l->gn_pool + n * groups + g;
        pool_rows(m + g * width, m + rows + g * width, width, l->bessel, pool,
                  pool + l->samples * groups);
      }
    }
  }
  if (!batch) return;
  merge_sums(l);
  pool_batch(l);
}

/* -- ratios -------------------------------------------------------------- */

/* Logits (K,) to ratios, without 'in' where that is dropped. */
static void softmax(const layer *l, const float *logits, double *ratios) {
  double largest = -INFINITY, total = 0;
  for (int64_t k = 0; k < l->count; k++) {
    const int dropped = l->drop_instance && k == l->in;
    ratios[k] = dropped ? -INFINITY : logits[k];
    /* NaN stays: the ratios are then NaN, as PyTorch's are */
    if (!(ratios[k] <= largest)) largest = ratios[k];
  }
  for (int64_t k = 0; k < l->count; k++)
    total += ratios[k] = exp(ratios[k] - largest);
  for (int64_t k = 0; k < l->count; k++) ratios[k] /= total;
}

/* The ratios of means (moment 0) or variances (1) of one channel group. */
static inline double *ratios_of(const layer *l, int64_t moment,
                                int64_t group) {
  return l->ratios + (moment * l->ratio_groups + group) * l->count;
}

static void make_ratios(const layer *l) {
  for (int64_t moment = 0; moment < 2; moment++)
    for (int64_t g = 0; g < l->ratio_groups; g++) {
      const float *logits =
          (moment ? l->var_weight : l->mean_weight) + g * l->count;
      double *ratios = ratios_of(l, moment, g);
      if (l->softmax)
        softmax(l, logits, ratios);
      else
        for (int64_t k = 0; k < l->count; k++) ratios[k] = logits[k];
    }
}

static inline double ratio(const layer *l, int64_t moment, int64_t group,
                           int64_t place) {
  return place < 0 ? 0. : ratios_of(l, moment, group)[place];
}

static void make_channel_arrays(const layer *l) {
  const int64_t c = l->channels, width = c / l->ratio_groups;
  for (int64_t moment = 0; moment < 2; moment++) {
    double *own = channel_array(l, OWN, moment);
    double *by_ln = channel_array(l, BY_LN, moment);
    double *by_gn = channel_array(l, BY_GN, moment);
    double *fixed = channel_array(l, FIXED, moment);
    for (int64_t i = 0; i < c; i++) {
      const int64_t g = i / width;
      own[i] = ratio(l, moment, g, l->in);
      by_ln[i] = ratio(l, moment, g, l->ln);
      by_gn[i] = ratio(l, moment, g, l->gn);
      fixed[i] = l->bn < 0
                     ? 0.
                     : ratio(l, moment, g, l->bn) * l->bn_pool[moment * c + i];
    }
  }
  double *weight = channel_array(l, WEIGHT, 0);
  for (int64_t i = 0; i < c; i++) {
    weight[i] = l->weight ? l->weight[i] : 1.;
    weight[c + i] = l->bias ? l->bias[i] : 0.;
  }
}

/* -- mixing -------------------------------------------------------------- */

/* Channels [start, start + width) of sample n. */
typedef struct {
  int64_t n, start, width;
} chunk;

/* What GN adds to the mixture of one moment of a chunk: `values`, one a
 * group of channels, times `factor`, one a channel. */
static inline void add_grouped(const layer *l, chunk at, const double *values,
                               const double *factor, double *out) {
  const int64_t width = l->channels / l->num_groups;
  const int64_t end = at.start + at.width;
  for (int64_t i = at.start; i < end;) {
    const int64_t group = i / width, stop = smaller(end, (group + 1) * width);
    for (; i < stop; i++) out[i - at.start] += factor[i] * values[group];
  }
}

/* One moment of the mixture of a chunk's rows: Eq. 3. */
static inline void mix(const layer *l, chunk at, int64_t moment,
                       double *restrict out) {
  const int64_t start = at.start, rows = l->samples * l->channels;
  const double *restrict own = channel_array(l, OWN, moment) + start;
  const double *restrict fixed = channel_array(l, FIXED, moment) + start;
  const double *restrict by_ln = channel_array(l, BY_LN, moment) + start;
  const double *restrict rows_own =
      l->moments + moment * rows + at.n * l->channels + start;
  const double bessel = moment ? l->bessel : 1.;
  const double ln = l->ln < 0 ? 0. : l->ln_pool[moment * l->samples + at.n];
  for (int64_t e = 0; e < at.width; e++)
    out[e] = own[e] * (bessel * rows_own[e]) + (by_ln[e] * ln + fixed[e]);
  if (l->gn >= 0)
    add_grouped(l, at,
                l->gn_pool + (moment * l->samples + at.n) * l->num_groups,
                channel_array(l, BY_GN, moment), out);
}

/* What all rows are mixed with: needs BN's moments. */
void switch_common(const layer *l) {
  const int64_t c = l->channels;
  for (int64_t i = 0; l->running_mean && i < c; i++) {
    l->bn_pool[i] = l->running_mean[i];
    l->bn_pool[c + i] = l->running_var[i];
  }
  make_ratios(l);
  make_channel_arrays(l);
}

/* Factors (3, N, C) of the affine sweep, near, scale and shift, by what
 * switch_common made. */
static void make_factors(const layer *l, float *factors) {
  const int64_t c = l->channels, rows = l->samples * c;
  const int64_t per_sample = (c + CHUNK - 1) / CHUNK;
  const double *weights = channel_array(l, WEIGHT, 0);
  const double eps = l->eps;
#pragma omp parallel for schedule(static) \
    num_threads(threads_for(l)) if (threads_for(l) > 1)
  for (int64_t i = 0; i < l->samples * per_sample; i++) {
    const int64_t n = i / per_sample, start = (i - n * per_sample) * CHUNK;
    const chunk at = {n, start, smaller(CHUNK, c - start)};
    const double *restrict m = l->moments + n * c + start;
    const double *restrict weight = weights + start;
    const double *restrict bias = weight + c;
    float *restrict near = factors + n * c + start;
    float *restrict scale = near + rows, *restrict shift = scale + rows;
    double mu[CHUNK], var[CHUNK];
    mix(l, at, 0, mu);
    mix(l, at, 1, var);
    for (int64_t e = 0; e < at.width; e++) {
      const double s = weight[e] / sqrt(var[e] + eps);
      const float centre = m[e];
      near[e] = centre;
      scale[e] = s;
      shift[e] = bias[e] - s * (mu[e] - centre);
    }
  }
}

void switch_factors(const layer *l, float *factors) {
  switch_common(l);
  make_factors(l, factors);
}

/* -- backward ------------------------------------------------------------ */

/* What a backward needs beside the layer, and where its results go. */
typedef struct {
  layer of;
  double *grads, *segments; /* (2, N, C) each, scratch */
  float *d_mean_weight, *d_var_weight, *d_weight, *d_bias;
} backward_layer;

const int64_t switch_backward_size = sizeof(backward_layer);

/* Of a chunk's rows: scale, g_mu, g_var and what a row adds to the gradient
 * of weight, all from the mixture (mu, var) and the sums of dy (s0) and of
 * dy * (x - near) (s1). */
static void row_grads(int64_t width, double eps, const double *restrict mu,
                      const double *restrict var,
                      const double *restrict weight, const double *restrict m,
                      const double *restrict s0, const double *restrict s1,
                      float *restrict scale, double *restrict g_mu,
                      double *restrict g_var, double *restrict of_weight) {
  for (int64_t e = 0; e < width; e++) {
    const double rstd = 1 / sqrt(var[e] + eps), s = weight[e] * rstd;
    const float near = m[e];
    const double about_mu = (s1[e] - (mu[e] - near) * s0[e]) * rstd;
    scale[e] = s;
    g_mu[e] = -s * s0[e];
    g_var[e] = -0.5 * s * rstd * about_mu;
    of_weight[e] = about_mu;
  }
}

static inline void add(int64_t width, const double *restrict x,
                       double *restrict total) {
  for (int64_t e = 0; e < width; e++) total[e] += x[e];
}

/* Add g to one total, and g times a row's own moment to another. */
static inline void add_grads(int64_t width, double bessel,
                             const double *restrict g,
                             const double *restrict own,
                             double *restrict total,
                             double *restrict own_total) {
  for (int64_t e = 0; e < width; e++) {
    total[e] += g[e];
    own_total[e] += g[e] * (bessel * own[e]);
  }
}

/* Of a sample's rows: scale, g_mu and g_var; and add to a block's sums. */
static void grads_of_sample(const layer *l, int64_t n, int64_t block,
                            const double *sums, double *grads, float *scales) {
  const int64_t c = l->channels, rows = l->samples * c;
  const double *weight = channel_array(l, WEIGHT, 0);
  for (int64_t start = 0; start < c; start += CHUNK) {
    const chunk at = {n, start, smaller(CHUNK, c - start)};
    const int64_t row = n * c + start;
    const double *m = l->moments + row, *s0 = sums + row;
    double *g_mu = grads + row, *g_var = g_mu + rows;
    double mu[CHUNK], var[CHUNK], of_weight[CHUNK];
    mix(l, at, 0, mu);
    mix(l, at, 1, var);
    row_grads(at.width, l->eps, mu, var, weight + start, m, s0, s0 + rows,
              scales + row, g_mu, g_var, of_weight);
    add(at.width, of_weight, block_sums(l, block, PARAMS, 0) + start);
    add(at.width, s0, block_sums(l, block, PARAMS, 1) + start);
    add_grads(at.width, 1, g_mu, m, block_sums(l, block, TOTAL, 0) + start,
              block_sums(l, block, OWN_SUM, 0) + start);
    add_grads(at.width, l->bessel, g_var, m + rows,
              block_sums(l, block, TOTAL, 1) + start,
              block_sums(l, block, OWN_SUM, 1) + start);
  }
}

/* Channels that share their ratios and a group of GN: segments. */
static int64_t segment_width(const layer *l) {
  int64_t a = l->channels / l->ratio_groups;
  int64_t b = l->gn < 0 ? a : l->channels / l->num_groups;
  while (b) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

/* Sums of g_mu (moment 0) or g_var (1) over the segments of sample n, and
 * the gradients of LN's and GN's pooled moments. */
static void sum_sample(const layer *l, int64_t n, int64_t moment,
                       const double *grads, double *segments) {
  const int64_t c = l->channels, width = segment_width(l);
  const int64_t groups = l->num_groups, i = moment * l->samples + n;
  const double *g = grads + i * c;
  double of_ln = 0;
  if (l->gn >= 0)
    for (int64_t k = 0; k < groups; k++) l->gn_grad[i * groups + k] = 0;
  for (int64_t j = 0; j < c / width; j++) {
    const int64_t first = j * width;
    const double t = sum(g + first, width);
    segments[i * (c / width) + j] = t;
    of_ln += channel_array(l, BY_LN, moment)[first] * t;
    if (l->gn >= 0)
      l->gn_grad[i * groups + first / (c / groups)] +=
          channel_array(l, BY_GN, moment)[first] * t;
  }
  if (l->ln >= 0) l->ln_grad[i] = of_ln;
}

/* Gradients of one moment's ratios or logits, (G, K): a ratio's is the sum
 * of g times the moment that it multiplies. */
static void ratio_grads(const layer *l, int64_t moment, const double *segments,
                        float *d_weight) {
  const int64_t c = l->channels, n = l->samples, k = l->count;
  const int64_t width = segment_width(l), parts = c / width;
  const int64_t each = c / l->ratio_groups, groups = l->num_groups;
  const double *of_ln = l->ln_pool + moment * n;
  const double *of_gn = l->gn_pool + moment * n * groups;
  for (int64_t g = 0; g < l->ratio_groups; g++) {
    const int64_t first = g * each, stop = (first + each) / width;
    const double *ratios = ratios_of(l, moment, g);
    double by_ln = 0, by_gn = 0, mean = 0, d[4] = {0};
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = first / width; j < stop; j++) {
        const double t = segments[(moment * n + i) * parts + j];
        if (l->ln >= 0) by_ln += t * of_ln[i];
        if (l->gn >= 0)
          by_gn += t * of_gn[i * groups + j * width / (c / groups)];
      }
    if (l->in >= 0)
      d[l->in] = sum(channel_array(l, OWN_SUM, moment) + first, each);
    if (l->ln >= 0) d[l->ln] = by_ln;
    if (l->gn >= 0) d[l->gn] = by_gn;
    if (l->bn >= 0)
      d[l->bn] = dot(channel_array(l, TOTAL, moment) + first,
                     l->bn_pool + moment * c + first, each);
    for (int64_t j = 0; j < k; j++) mean += ratios[j] * d[j];
    for (int64_t j = 0; j < k; j++)
      d_weight[g * k + j] = l->softmax ? ratios[j] * (d[j] - mean) : d[j];
  }
}

/* Gradients of everything but the rows, from `sums` (2, N, C): of dy and of
 * dy * (x - near). Into `factors` (3, N, C) what combine multiplies dy with,
 * and into `grads` g_mu and g_var. */
void switch_sums(const backward_layer *b, const double *sums,
                 float *factors) {
  const layer *l = &b->of;
  const int64_t c = l->channels, each = c / l->ratio_groups;
  switch_common(l);
#pragma omp parallel for schedule(static) \
    num_threads(threads_for(l)) if (threads_for(l) > 1)
  for (int64_t block = 0; block < block_count(l); block++) {
    clear_sums(l, block);
    for (int64_t i = block_start(l, block); i < block_start(l, block + 1);
         i++) {
      grads_of_sample(l, i, block, sums, b->grads, factors);
      if (l->ln < 0 && l->gn < 0) continue;
      sum_sample(l, i, 0, b->grads, b->segments);
      sum_sample(l, i, 1, b->grads, b->segments);
    }
  }
  merge_sums(l);
  for (int64_t i = 0; i < c; i++) {
    b->d_weight[i] = channel_array(l, PARAMS, 0)[i];
    b->d_bias[i] = channel_array(l, PARAMS, 1)[i];
  }
  ratio_grads(l, 0, b->segments, b->d_mean_weight);
  ratio_grads(l, 1, b->segments, b->d_var_weight);
  if (l->bn < 0 || l->given) return;
  for (int64_t moment = 0; moment < 2; moment++)
    for (int64_t i = 0; i < c; i++)
      l->bn_grad[moment * c + i] = ratio(l, moment, i / each, l->bn) *
                                   channel_array(l, TOTAL, moment)[i];
}

/* Add to the gradients of a chunk's own moments its share in those of a
 * group of rows with mean `mean`: a pooled variance holds mean((m - mean)^2),
 * which pulls on m as well. */
static inline void add_share(const double *m, int64_t width, double mean,
                             double of_mean, double of_var, double *d_m,
                             double *d_v) {
  for (int64_t e = 0; e < width; e++) {
    d_m[e] += of_mean + 2 * (m[e] - mean) * of_var;
    d_v[e] += of_var;
  }
}

/* GN's shares: see add_share. */
static inline void add_group_shares(const layer *l, chunk at, const double *m,
                                    double *d_m, double *d_v) {
  const int64_t width = l->channels / l->num_groups;
  const int64_t row = at.n * l->num_groups, end = at.start + at.width;
  const int64_t all = l->samples * l->num_groups;
  for (int64_t i = at.start; i < end;) {
    const int64_t group = i / width, e = i - at.start;
    const int64_t stop = smaller(end, (group + 1) * width);
    add_share(m + e, stop - i, l->gn_pool[row + group],
              l->gn_grad[row + group] / width,
              l->gn_grad[all + row + group] / width, d_m + e, d_v + e);
    i = stop;
  }
}

/* Slope and shift of the combine sweep, about near, behind what switch_sums
 * wrote into `factors`: a row's values get (d_m + 2 * d_v * (x - m)) / S, Eq. 6
 * to 14. `share` is a row's part in the gradients of BN's moments. */
void switch_coefficients(const backward_layer *b, double share,
                         float *factors) {
  const layer *l = &b->of;
  const double *grads = b->grads;
  const int64_t c = l->channels, rows = l->samples * c;
  const int64_t per_sample = (c + CHUNK - 1) / CHUNK;
  const int pools = l->bn >= 0 && !l->given;
  const double part = 1 / l->size, slope_part = 2 * l->bessel * part;
  double *bn_means = channel_array(l, BN_PART, 0);
  double *bn_vars = channel_array(l, BN_PART, 1);
  for (int64_t i = 0; i < c; i++) {
    bn_means[i] = pools ? share * l->bn_grad[i] : 0.;
    bn_vars[i] = pools ? share * l->bn_grad[c + i] : 0.;
  }
#pragma omp parallel for schedule(static) \
    num_threads(threads_for(l)) if (threads_for(l) > 1)
  for (int64_t i = 0; i < l->samples * per_sample; i++) {
    const int64_t n = i / per_sample, start = (i - n * per_sample) * CHUNK;
    const chunk at = {n, start, smaller(CHUNK, c - start)};
    const int64_t first = n * c + start;
    const double *restrict m = l->moments + first;
    const double *restrict g_mu = grads + first, *restrict g_var = g_mu + rows;
    const double *restrict own_mean = channel_array(l, OWN, 0) + start;
    const double *restrict own_var = channel_array(l, OWN, 1) + start;
    const double *restrict of_mean = bn_means + start;
    const double *restrict of_var = bn_vars + start;
    const double *restrict bn = pools ? l->bn_pool + start : of_mean;
    float *restrict slope = factors + rows + first;
    float *restrict shift = slope + rows;
    double d_m[CHUNK], d_v[CHUNK];
    for (int64_t e = 0; e < at.width; e++) {
      d_m[e] =
          own_mean[e] * g_mu[e] + of_mean[e] + 2 * (m[e] - bn[e]) * of_var[e];
      d_v[e] = own_var[e] * g_var[e] + of_var[e];
    }
    if (l->ln >= 0)
      add_share(m, at.width, l->ln_pool[n], l->ln_grad[n] / c,
                l->ln_grad[l->samples + n] / c, d_m, d_v);
    if (l->gn >= 0) add_group_shares(l, at, m, d_m, d_v);
    for (int64_t e = 0; e < at.width; e++) {
      const double of_x = slope_part * d_v[e];
      const float near = m[e];
      slope[e] = of_x;
      shift[e] = part * d_m[e] - of_x * (m[e] - near);
    }
  }
}

/* -- running statistics -------------------------------------------------- */

/* Running mean and var (C,) a part `step` of the way towards the batch's
 * (2, C), and one more in `count`. With a third row, the number of
 * positions: nothing if there is none. Nothing either if a mean or variance
 * of the batch is not finite as a float. */
void switch_move(float *mean, float *var, int64_t *count, const double *batch,
                 int64_t rows, int64_t channels, double step) {
  double bad = 0; /* stays 0 over finite values */
  if (rows > 2 && !(batch[2 * channels] > 0)) return;
  for (int64_t i = 0; i < 2 * channels; i++) bad += 0 * (float)batch[i];
  if (bad != 0) return;
  *count += 1;
  for (int64_t i = 0; i < channels; i++) {
    mean[i] += step * (batch[i] - mean[i]);
    var[i] += step * (batch[channels + i] - var[i]);
  }
}

/* -- all numbers of a pass at once, for native/driver.c ------------------- */

void switch_forward(layer *l, int64_t first, int64_t samples,
                    const double *moments, float *factors) {
  l->moments = moments;
  switch_pool(l);
  switch_factors(l, factors);
  (void)first, (void)samples; /* all of them */
}

/* The same of some samples, after switch_common. Several threads may do this
 * at once. */
void switch_forward_some(const layer *l, int64_t first, int64_t samples,
                         const double *moments, float *factors) {
  layer some = *l;
  some.samples = samples;
  some.moments = moments;
  some.threads = 1;
  some.ln_pool += 2 * first;
  some.gn_pool += 2 * first * l->num_groups;
  switch_pool(&some);
  make_factors(&some, factors);
}

void switch_backward(backward_layer *b, const double *moments,
                     const double *sums, float *factors) {
  layer *l = &b->of;
  l->moments = moments;
  switch_pool(l); /* not worth keeping */
  switch_sums(b, sums, factors);
  switch_coefficients(b, 1. / l->samples, factors);
}
