/* Copyright (c) sn_mm authors. Licensed under Apache-2.0.
 *
 * The two sweeps of a pass in one call, with whatever makes the second one's
 * factors of the first one's results in between. On small inputs the calls
 * cost more than the sweeps.
 *
 * The sweeps of one dtype come as pointers (sweeps.c), and so do the numbers:
 * nothing here knows a normalizer. Factors and sums are of no interest to
 * anybody else, and stay in `scratch`.
 */
#include <stdint.h>

typedef void moments_sweep(const void *, int64_t, int64_t, int64_t, int64_t,
                           double *, int64_t);
typedef void affine_sweep(const void *, int64_t, int64_t, int64_t, int64_t,
                          const float *, const float *, const float *, int64_t,
                          void *, int64_t);
typedef void products_sweep(const void *, const void *, int64_t, int64_t,
                            int64_t, int64_t, const float *, const float *,
                            const float *, double *, int64_t);
typedef void remeasure_sweep(const void *, const void *, int64_t, int64_t,
                             int64_t, int64_t, double *, double *, int64_t);
typedef void combine_sweep(const void *, const void *, int64_t, int64_t,
                           int64_t, int64_t, const float *, const float *,
                           const float *, const float *, const float *,
                           const float *, void *, int64_t);

/* An output of so many bytes is about to be written. */
typedef void expect_output(void *, int64_t);

typedef struct {
  moments_sweep *moments;
  affine_sweep *affine;
  products_sweep *products;
  remeasure_sweep *remeasure;
  combine_sweep *combine;
  expect_output *expect;
} sweeps;

/* From moments (2, N, C) to near, scale and shift (3, N, C). */
typedef void forward_numbers(void *of, int64_t samples, const double *moments,
                             float *factors);
/* From moments and sums (2, N, C) to scale, slope and shift (3, N, C). */
typedef void backward_numbers(void *of, const double *moments,
                              const double *sums, float *factors);

/* y, and the moments of x if somebody wants them, `block` samples at a time:
 * what is normalized with may not depend on other blocks, whose second sweep
 * finds x in the cache. Moments are of the whole batch only. A sample has
 * `bytes`. Scratch: 2 doubles and 3 floats for each row of a block. */
void driver_forward(const sweeps *use, const void *x, int64_t samples,
                    int64_t channels, int64_t size, int64_t last,
                    int64_t block, int64_t bytes, double *moments,
                    forward_numbers *numbers, void *of, int64_t relu, void *y,
                    double *scratch, int64_t threads) {
  if (block < samples) /* a sweep over all of them says so itself */
    use->expect(y, samples * bytes);
  for (int64_t start = 0; start < samples; start += block) {
    const int64_t n = samples - start < block ? samples - start : block;
    const int64_t rows = n * channels;
    const char *in = (const char *)x + start * bytes;
    char *out = (char *)y + start * bytes;
    float *factors = (float *)(scratch + 2 * rows);
    double *own = moments ? moments : scratch;
    use->moments(in, n, channels, size, last, own, threads);
    numbers(of, n, own, factors);
    use->affine(in, n, channels, size, last, factors, factors + rows,
                factors + 2 * rows, relu, out, threads);
  }
}

/* dx, if it is wanted, and whatever else the numbers give. Without moments
 * they are measured again. With `gate`, the numbers of the forward pass, a
 * ReLU followed: dy counts where y was positive. Scratch: 4 doubles and 7
 * floats for each row. */
void driver_backward(const sweeps *use, const void *dy, const void *x,
                     int64_t samples, int64_t channels, int64_t size,
                     int64_t last, const double *moments,
                     backward_numbers *numbers, void *of,
                     forward_numbers *gate, void *dx, double *scratch,
                     int64_t threads) {
  const int64_t rows = samples * channels;
  double *sums = scratch + 2 * rows;
  float *near = (float *)(scratch + 4 * rows), *factors = near + rows;
  float *forward = factors + 3 * rows; /* the gate's scale and shift last */
  const float *gate_scale = 0, *gate_shift = 0;
  const int at_once = !moments && !gate;
  if (at_once)
    use->remeasure(dy, x, samples, channels, size, last, scratch, sums,
                   threads);
  else if (!moments)
    use->moments(x, samples, channels, size, last, scratch, threads);
  if (!moments) moments = scratch;
  if (gate) {
    gate(of, samples, moments, forward);
    gate_scale = forward + rows;
    gate_shift = forward + 2 * rows;
  }
  for (int64_t r = 0; r < rows; r++) near[r] = moments[r];
  if (!at_once)
    use->products(dy, x, samples, channels, size, last, near, gate_scale,
                  gate_shift, sums, threads);
  numbers(of, moments, sums, factors);
  if (dx)
    use->combine(dy, x, samples, channels, size, last, factors, near,
                 factors + rows, factors + 2 * rows, gate_scale, gate_shift,
                 dx, threads);
}
