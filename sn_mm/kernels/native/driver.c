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

#include "pages.h"

/* On fewer rows than this, threads cost more than they save. */
#define GRAIN 32768

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

typedef struct {
  moments_sweep *moments;
  affine_sweep *affine;
  products_sweep *products;
  remeasure_sweep *remeasure;
  combine_sweep *combine;
} sweeps;

/* From moments (2, N, C) to near, scale and shift (3, N, C), for samples from
 * the `first` one on. */
typedef void forward_numbers(void *of, int64_t first, int64_t samples,
                             const double *moments, float *factors);
/* What the numbers of all samples have in common. */
typedef void common_numbers(void *of);
/* From moments and sums (2, N, C) to scale, slope and shift (3, N, C). */
typedef void backward_numbers(void *of, const double *moments,
                              const double *sums, float *factors);

/* What the forward passes below share. */
typedef struct {
  const sweeps *use;
  const char *x;
  char *y;
  int64_t channels, size, last;
  int64_t bytes; /* of a sample */
  forward_numbers *numbers;
  void *of;
  int64_t relu;
} forward_pass;

/* Samples [first, first + count). Scratch: 3 floats for each row. */
static void normalize(const forward_pass *p, int64_t first, int64_t count,
                      double *moments, float *factors, int64_t threads) {
  const int64_t rows = count * p->channels, at = first * p->bytes;
  p->use->moments(p->x + at, count, p->channels, p->size, p->last, moments,
                  threads);
  p->numbers(p->of, first, count, moments, factors);
  p->use->affine(p->x + at, count, p->channels, p->size, p->last, factors,
                 factors + rows, factors + 2 * rows, p->relu, p->y + at,
                 threads);
}

/* y, and the moments of x if somebody wants them. A sample has `bytes`.
 * Scratch: 2 doubles and 3 floats for each row. */
void driver_forward(const sweeps *use, const void *x, int64_t samples,
                    int64_t channels, int64_t size, int64_t last,
                    int64_t bytes, double *moments, forward_numbers *numbers,
                    void *of, int64_t relu, void *y, double *scratch,
                    int64_t threads) {
  const forward_pass pass = {use,   x,       y,  channels, size, last,
                             bytes, numbers, of, relu};
  float *factors = (float *)(scratch + 2 * samples * channels);
  normalize(&pass, 0, samples, moments ? moments : scratch, factors, threads);
}

/* Blocks [first, end) of `block` samples, one after the other. `asked`: for
 * huge pages for all of y; returns whether they came too slowly. */
static int normalize_blocks(const forward_pass *p, int64_t first, int64_t end,
                            int64_t block, int64_t samples, int asked,
                            double *scratch, int64_t threads) {
  float *factors = (float *)(scratch + 2 * block * p->channels);
  const int64_t stop = end * block < samples ? end * block : samples;
  const double since = asked ? now() : 0;
  int is_slow = 0;
  for (int64_t start = first * block; start < stop; start += block) {
    const int64_t n = stop - start < block ? stop - start : block;
    const int64_t done = start + n;
    normalize(p, start, n, scratch, factors, threads);
    if (asked && !is_slow &&
        has_stalled(since, (done - first * block) * p->bytes)) {
      give_up_huge_pages(p->y + done * p->bytes, (stop - done) * p->bytes);
      is_slow = 1;
    }
  }
  return is_slow;
}

/* y, `block` samples at a time, whose second sweep finds x in the cache: what
 * a sample is normalized with may not depend on others. `workers` threads
 * take blocks of their own; if that is one, `threads` share each block.
 * Scratch: 2 doubles and 3 floats for each row of a block, for each worker. */
void driver_forward_blocks(const sweeps *use, const void *x, int64_t samples,
                           int64_t channels, int64_t size, int64_t last,
                           int64_t bytes, int64_t block,
                           common_numbers *common, forward_numbers *numbers,
                           void *of, int64_t relu, void *y, double *scratch,
                           int64_t workers, int64_t threads) {
  const forward_pass pass = {use,   x,       y,  channels, size, last,
                             bytes, numbers, of, relu};
  const int64_t blocks = (samples + block - 1) / block;
  /* the sweeps of larger blocks ask themselves */
  const int asked = block * bytes < (int64_t)HUGE_PAGE &&
                    ask_for_huge_pages(y, samples * bytes);
  int stalled = 0;
  common(of);
  if (workers == 1) { /* in a region of one thread, others would be new ones */
    stalled = normalize_blocks(&pass, 0, blocks, block, samples, asked,
                               scratch, threads);
  } else {
#pragma omp parallel for schedule(static) num_threads((int)workers) \
    reduction(| : stalled)
    for (int64_t i = 0; i < workers; i++)
      stalled |= normalize_blocks(
          &pass, i * blocks / workers, (i + 1) * blocks / workers, block,
          samples, asked, scratch + i * 4 * block * channels, 1);
  }
  if (asked) learn_of_huge_pages(stalled);
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
    gate(of, 0, samples, moments, forward);
    gate_scale = forward + rows;
    gate_shift = forward + 2 * rows;
  }
  const int shared = rows > GRAIN && threads > 1;
#pragma omp parallel for schedule(static) num_threads((int)threads) if (shared)
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
