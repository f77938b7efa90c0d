/* Copyright (c) sn_mm authors. Licensed under Apache-2.0.
 *
 * The values of x: float32, or with -DFLOAT16 or -DBFLOAT16 those, read and
 * written in groups of LANES as float32. Half precisions are widened when
 * they are read, and rounded to the nearest, ties to even, when written.
 */
#ifndef SN_MM_VALUES_H
#define SN_MM_VALUES_H

#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

/* What one register holds. */
#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define LINE 64 /* bytes that memory moves at once */
typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t mask __attribute__((vector_size(4 * LANES)));
typedef uint32_t bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t shorts __attribute__((vector_size(2 * LANES)));

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* -1 between zeros: where a mask is read from decides which lanes it has. */
static const int32_t counts[3 * LANES] = {[LANES... 2 * LANES - 1] = -1};

INLINE mask mask_at(int64_t start) {
  mask which;
  memcpy(&which, counts + start, sizeof which);
  return which;
}

/* The first n lanes. */
INLINE mask first_lanes(int64_t n) { return mask_at(2 * LANES - n); }

/* v where the condition (-1 in a lane, or 0) holds, else 0. */
INLINE lanes keep(mask condition, lanes v) {
  return (lanes)((mask)v & condition);
}

/* -- reading and writing ------------------------------------------------ */

#if !defined(FLOAT16) && !defined(BFLOAT16)

typedef float value;

INLINE lanes load(const value *x) {
  lanes v;
  memcpy(&v, x, sizeof v);
  return v;
}

INLINE void store(value *x, lanes v) { memcpy(x, &v, sizeof v); }

#else

typedef uint16_t value;

#ifdef BFLOAT16

INLINE lanes widen(shorts h) {
  return (lanes)(__builtin_convertvector(h, bits) << 16);
}

INLINE shorts narrow(lanes v) {
  const bits b = (bits)v, is_nan = (bits)(v != v);
  const bits rounded = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
  const bits half = rounded | (0x7fc0 & is_nan); /* never an infinity */
#if LANES == 8 && defined(__AVX2__)
  const __m256i wide = (__m256i)half;
  return (shorts)_mm_packus_epi32(_mm256_castsi256_si128(wide),
                                  _mm256_extracti128_si256(wide, 1));
#else
  return __builtin_convertvector(half, shorts);
#endif
}

#elif defined(__F16C__) && !defined(SN_MM_PORTABLE)

INLINE lanes widen(shorts h) {
#if LANES == 16
  return (lanes)_mm512_cvtph_ps((__m256i)h);
#else
  return (lanes)_mm256_cvtph_ps((__m128i)h);
#endif
}

INLINE shorts narrow(lanes v) {
#if LANES == 16
  return (shorts)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
#else
  return (shorts)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
#endif
}

#else

/* Exponents of float16 are biased by 15, those of float32 by 127. A number
 * below the smallest normal one, 2^-14, is its digits times 2^-24. */
INLINE lanes widen(shorts h) {
  const bits b = __builtin_convertvector(h, bits);
  const bits magnitude = b & 0x7fff, sign = (b & 0x8000) << 16;
  const bits normal = (magnitude << 13) + ((127 - 15) << 23);
  const bits not_finite = (magnitude << 13) | 0x7f800000;
  const bits tiny =
      (bits)(__builtin_convertvector((mask)magnitude, lanes) * 0x1p-24f);
  const bits is_tiny = (bits)(magnitude < 0x0400);
  const bits is_large = (bits)(magnitude >= 0x7c00);
  const bits value = (tiny & is_tiny) | (not_finite & is_large) |
                     (normal & ~is_tiny & ~is_large);
  return (lanes)(value | sign);
}

INLINE shorts narrow(lanes v) {
  const bits b = (bits)v, magnitude = b & 0x7fffffff;
  const bits sign = (b >> 16) & 0x8000;
  /* 0.5 has its last digit at 2^-24: adding it rounds to that digit. */
  const bits tiny = (bits)((lanes)magnitude + 0.5f) - 0x3f000000;
  const bits normal =
      (magnitude - ((127 - 15) << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const bits is_tiny = (bits)(magnitude < 0x38800000);   /* 2^-14 */
  const bits is_large = (bits)(magnitude >= 0x477ff000); /* over 65504 */
  const bits is_nan = (bits)(magnitude > 0x7f800000);
  const bits value = (tiny & is_tiny) | (normal & ~is_tiny & ~is_large) |
                     (0x7c00 & is_large & ~is_nan) | (0x7e00 & is_nan);
  return __builtin_convertvector(value | sign, shorts);
}

#endif

INLINE lanes load(const value *x) {
  shorts h;
  memcpy(&h, x, sizeof h);
  return widen(h);
}

INLINE void store(value *x, lanes v) {
  const shorts h = narrow(v);
  memcpy(x, &h, sizeof h);
}

#endif

/* Groups of sums and factors, which are float32 whatever x is. */
INLINE lanes load_floats(const float *x) {
  lanes v;
  memcpy(&v, x, sizeof v);
  return v;
}

INLINE void store_floats(float *x, lanes v) { memcpy(x, &v, sizeof v); }

static __attribute__((noinline)) void copy(void *out, const void *from,
                                           int64_t bytes) {
  memcpy(out, from, bytes);
}

/* The first n values, n < LANES, and zeros. */
INLINE lanes load_few_floats(const float *x, int64_t n) {
#if LANES == 8 && defined(__AVX2__)
  return (lanes)_mm256_maskload_ps(x, (__m256i)first_lanes(n));
#elif LANES == 16
  return (lanes)_mm512_maskz_loadu_ps((__mmask16)((1 << n) - 1), x);
#else
  float padded[LANES] = {0};
  copy(padded, x, n * sizeof *x);
  return load_floats(padded);
#endif
}

INLINE lanes load_few(const value *x, int64_t n) {
#if !defined(FLOAT16) && !defined(BFLOAT16)
  return load_few_floats(x, n);
#else
  value padded[LANES] = {0};
  copy(padded, x, n * sizeof *x);
  return load(padded);
#endif
}

INLINE void store_few(value *x, int64_t n, lanes v) {
  value padded[LANES];
  store(padded, v);
  copy(x, padded, n * sizeof *x);
}

/* Fetch what two groups further on are made of from memory. */
INLINE void fetch_two(const value *x) {
  __builtin_prefetch(x);
  if (LANES * sizeof *x >= LINE) __builtin_prefetch(x + LANES);
}

INLINE void fetch_two_to_write(const value *x) {
  __builtin_prefetch(x, 1);
  if (LANES * sizeof *x >= LINE) __builtin_prefetch(x + LANES, 1);
}

/* Values to the first one at which x is aligned to a full group: 1 to LANES,
 * so that one unaligned group covers what comes before. */
INLINE int64_t to_alignment(const value *x) {
  return LANES - (int64_t)((uintptr_t)x / sizeof *x % LANES);
}

/* Whether there are stores that go past the caches. */
#if defined(__SSE2__)
#define CAN_STREAM 1
#else
#define CAN_STREAM 0
#endif

/* Write one line of memory past the caches, which then need not fetch it
 * first. Both addresses are aligned to a line. */
INLINE void stream_line(void *out, const void *line) {
#if defined(__AVX512F__)
  _mm512_stream_si512(out, _mm512_load_si512(line));
#elif defined(__AVX__)
  for (int i = 0; i < 2; i++)
    _mm256_stream_si256((__m256i *)out + i,
                        _mm256_load_si256((const __m256i *)line + i));
#elif defined(__SSE2__)
  for (int i = 0; i < 4; i++)
    _mm_stream_si128((__m128i *)out + i,
                     _mm_load_si128((const __m128i *)line + i));
#else
  memcpy(out, line, LINE);
#endif
}

/* Other threads must see what was streamed. */
INLINE void finish_streams(void) {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

/* -- sums ---------------------------------------------------------------- */

/* a * b + c, rounded once where there is an instruction for it. */
INLINE lanes multiply_add(lanes a, lanes b, lanes c) {
#if LANES == 16
  return (lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

typedef float four __attribute__((vector_size(16)));
typedef double four_doubles __attribute__((vector_size(32)));
typedef int64_t four_masks __attribute__((vector_size(32)));

INLINE four_doubles widen_four(four v) {
  return __builtin_convertvector(v, four_doubles);
}

INLINE four quarter(lanes v, int i) {
  four q[LANES / 4];
  memcpy(q, &v, sizeof q);
  return q[i];
}

INLINE four by_halves(lanes v) {
#if LANES == 16
  return (quarter(v, 0) + quarter(v, 2)) + (quarter(v, 1) + quarter(v, 3));
#else
  return quarter(v, 0) + quarter(v, 1);
#endif
}

/* The sum of a group. */
INLINE float total(lanes v) {
  const four sum = by_halves(v);
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

#if defined(__clang__) || __GNUC__ >= 12
#define MERGE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t four_bits __attribute__((vector_size(16)));
#define MERGE(a, b, ...) __builtin_shuffle(a, b, (four_bits){__VA_ARGS__})
#endif

/* total() of four groups, in the same order of summation. */
INLINE four totals(lanes v0, lanes v1, lanes v2, lanes v3) {
  const four s0 = by_halves(v0), s1 = by_halves(v1);
  const four s2 = by_halves(v2), s3 = by_halves(v3);
  const four a = MERGE(s0, s1, 0, 4, 1, 5) + MERGE(s0, s1, 2, 6, 3, 7);
  const four b = MERGE(s2, s3, 0, 4, 1, 5) + MERGE(s2, s3, 2, 6, 3, 7);
  return MERGE(a, b, 0, 1, 4, 5) + MERGE(a, b, 2, 3, 6, 7);
}

#endif
