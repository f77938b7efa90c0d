/* Copyright (c) sn_mm authors. Licensed under Apache-2.0.
 *
 * Huge pages for fresh outputs.
 *
 * They spare a large output nearly all of its page faults, which take longer
 * than what is computed in it. But where a kernel has to move other memory out
 * of the way first, each takes it several milliseconds, and small pages are
 * better: who writes looks at the clock, and does without for the rest.
 */
#ifndef SN_MM_PAGES_H
#define SN_MM_PAGES_H

#include <stdint.h>
#include <time.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#define HUGE_PAGE ((uintptr_t)2 << 20)
/* Seconds in which what has at most a few huge pages is there, and written. */
#ifndef STALL
#define STALL 2e-3
#endif

static inline double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

#if defined(MADV_HUGEPAGE) && defined(MADV_NOHUGEPAGE)

/* Advise on the huge pages that lie within; whether there are any. Only
 * advice: failing is fine. */
static inline int advise(const void *out, int64_t bytes, int advice) {
  const uintptr_t start = (uintptr_t)out, end = start + bytes;
  const uintptr_t first = (start + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
  const uintptr_t last = end & ~(HUGE_PAGE - 1);
  if (last <= first) return 0;
  madvise((void *)first, last - first, advice);
  return 1;
}

/* Ask for huge pages for an output, the whole of which must be given at once.
 * Whether it has room for any. */
static inline int ask_for_huge_pages(const void *out, int64_t bytes) {
  return advise(out, bytes, MADV_HUGEPAGE);
}

/* Take it back for a part. */
static inline void do_without(const void *out, int64_t bytes) {
  advise(out, bytes, MADV_NOHUGEPAGE);
}

#else

static inline int ask_for_huge_pages(const void *out, int64_t bytes) {
  return (void)out, (void)bytes, 0;
}

static inline void do_without(const void *out, int64_t bytes) {
  (void)out, (void)bytes;
}

#endif

/* Whether something took too long since `start`, which is then now. */
static inline int has_stalled(double *start) {
  const double before = *start;
  *start = now();
  return *start - before > STALL;
}

#endif
