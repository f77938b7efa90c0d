/* Copyright (c) sn_mm authors. Licensed under Apache-2.0.
 *
 * What stands between a rule and the sweeps (../factors.py has the formulas):
 * in PyTorch some 25 small operations, each of which has to be fetched from
 * memory again after a sweep over an input that fills the caches.
 */
#include <stddef.h>
#include <stdint.h>

/* Doubles that broadcast to (samples, channels): a step of 0 repeats. */
typedef struct {
  double *at;
  int64_t by_sample, by_channel;
} numbers;

const int64_t factors_fields[] = {sizeof(numbers), offsetof(numbers, at),
                                  offsetof(numbers, by_sample),
                                  offsetof(numbers, by_channel)};

static double of(numbers t, int64_t n, int64_t c) {
  return t.at[n * t.by_sample + c * t.by_channel];
}

/* One after the other in memory, whatever t is: loops over these vectorize. */
static const double *row_of(numbers t, int64_t n, int64_t channels,
                            double *scratch) {
  if (t.by_channel == 1) return t.at + n * t.by_sample;
  for (int64_t c = 0; c < channels; c++) scratch[c] = of(t, n, c);
  return scratch;
}

/* To a gradient without gaps in memory. Of what was broadcast it is a sum. */
static void add_row(numbers gradient, int64_t n, int64_t channels,
                    const double *row) {
  const int64_t width = gradient.by_channel ? channels : 1;
  double *out = gradient.at + n * gradient.by_sample;
  if (n == 0 || gradient.by_sample)
    for (int64_t c = 0; c < width; c++) out[c] = 0;
  if (gradient.by_channel) {
    for (int64_t c = 0; c < channels; c++) out[c] += row[c];
  } else {
    double sum = 0;
    for (int64_t c = 0; c < channels; c++) sum += row[c];
    *out += sum;
  }
}

/* near, scale and shift (3, N, C). Scratch: 3 doubles for each channel. */
void factors_of_output(int64_t samples, int64_t channels,
                       const double *moments, const numbers *rule,
                       float *factors, double *scratch) {
  const int64_t rows = samples * channels;
  for (int64_t n = 0; n < samples; n++) {
    const double *mean = moments + n * channels;
    const double *centre = row_of(rule[0], n, channels, scratch);
    const double *scale = row_of(rule[1], n, channels, scratch + channels);
    const double *bias = row_of(rule[2], n, channels, scratch + 2 * channels);
    float *out = factors + n * channels;
    for (int64_t c = 0; c < channels; c++) {
      const float near = (float)mean[c];
      out[c] = near;
      out[c + rows] = (float)scale[c];
      out[c + 2 * rows] = (float)(bias[c] - scale[c] * (centre[c] - near));
    }
  }
}

/* The gradients of centre, scale and bias, shaped as these; but not with their
 * steps, since a result may hold an element several times in its own shape.
 * Scratch: 4 doubles for each channel. */
void factors_cotangents(int64_t samples, int64_t channels,
                        const double *moments, const double *sums,
                        const numbers *rule, const numbers *gradients,
                        double *scratch) {
  const int64_t rows = samples * channels;
  double *d_centre = scratch + 2 * channels, *d_scale = d_centre + channels;
  for (int64_t n = 0; n < samples; n++) {
    const double *mean = moments + n * channels, *s0 = sums + n * channels;
    const double *s1 = s0 + rows;
    const double *centre = row_of(rule[0], n, channels, scratch);
    const double *scale = row_of(rule[1], n, channels, scratch + channels);
    for (int64_t c = 0; c < channels; c++) {
      d_centre[c] = -scale[c] * s0[c];
      d_scale[c] = s1[c] - (centre[c] - (float)mean[c]) * s0[c];
    }
    add_row(gradients[0], n, channels, d_centre);
    add_row(gradients[1], n, channels, d_scale);
    add_row(gradients[2], n, channels, s0);
  }
}

/* scale, slope and shift (3, N, C), of the gradients by means and variances
 * (2, N, C). Scratch: a double for each channel. */
void factors_of_gradient(int64_t samples, int64_t channels, double size,
                         const double *moments, const numbers *given_scale,
                         const double *d_moments, float *factors,
                         double *scratch) {
  const int64_t rows = samples * channels;
  for (int64_t n = 0; n < samples; n++) {
    const double *mean = moments + n * channels;
    const double *d_mean = d_moments + n * channels, *d_var = d_mean + rows;
    const double *scale = row_of(*given_scale, n, channels, scratch);
    float *out = factors + n * channels;
    for (int64_t c = 0; c < channels; c++) {
      const double slope = 2 * d_var[c] / size;
      const double error = (float)mean[c] - mean[c];
      out[c] = (float)scale[c];
      out[c + rows] = (float)slope;
      out[c + 2 * rows] = (float)(d_mean[c] / size + slope * error);
    }
  }
}
