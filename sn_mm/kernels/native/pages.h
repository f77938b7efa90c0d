/* Copyright (c) sn_mm authors. Licensed under Apache-2.0.
 *
 * Huge pages for fresh outputs.
 *
 * They spare a large output nearly all of its page faults, which take longer
 * than what is computed in it. But one can take several milliseconds: where
 * the kernel has to move other memory out of the way first, or where it has to
 * come from the host of a virtual machine. Who writes therefore looks at the
 * clock, does without for the rest if that goes on, and so do some outputs
 * after it.
 */
#ifndef SN_MM_PAGES_H
#define SN_MM_PAGES_H

#include <stdint.h>
#include <time.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#define HUGE_PAGE ((uintptr_t)2 << 20)
#define SMALL_PAGE 4096
/* Seconds that writing may take: for each byte (small pages take as long), and
 * once, for pages that come slowly at first. */
#define BYTE_TIME 0.75e-9
#ifndef PATIENCE
#define PATIENCE 6e-3
#endif
/* Outputs that do without after one that had to wait, at most. */
#define MOST_WITHOUT 64

static inline double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* Whether it took too long to write so many bytes. */
static inline int has_stalled(double since, int64_t bytes) {
  return now() - since > PATIENCE + BYTE_TIME * bytes;
}

#if defined(MADV_HUGEPAGE) && defined(MADV_NOHUGEPAGE)

/* How many outputs are still to do without, and how many after the next one
 * that waits. Several threads may count at once: it need not be exact. */
static int64_t without = 0, next_without = 1;

/* The huge pages that lie within an output. */
typedef struct {
  char *first;
  int64_t bytes;
} huge_pages;

static inline huge_pages pages_within(void *out, int64_t bytes) {
  const uintptr_t start = (uintptr_t)out, end = start + bytes;
  const uintptr_t first = (start + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
  const uintptr_t last = end & ~(HUGE_PAGE - 1);
  return (huge_pages){(char *)first, last > first ? last - first : 0};
}

/* Ask for huge pages for an output, the whole of which must be given at once;
 * whether they were asked for. Only advice: failing is fine. */
static inline int ask_for_huge_pages(void *out, int64_t bytes) {
  const huge_pages pages = pages_within(out, bytes);
  unsigned char is_there = 0;
  if (!pages.bytes) return 0;
  if (mincore(pages.first, SMALL_PAGE, &is_there) || is_there & 1) return 0;
  if (__atomic_load_n(&without, __ATOMIC_RELAXED) > 0) {
    __atomic_sub_fetch(&without, 1, __ATOMIC_RELAXED);
    return 0;
  }
  return !madvise(pages.first, pages.bytes, MADV_HUGEPAGE);
}

/* Do without in a part of it. */
static inline void give_up_huge_pages(void *out, int64_t bytes) {
  const huge_pages pages = pages_within(out, bytes);
  if (pages.bytes) madvise(pages.first, pages.bytes, MADV_NOHUGEPAGE);
}

/* An output that had asked is written. */
static inline void learn_of_huge_pages(int stalled) {
  int64_t next = 1;
  if (stalled) {
    const int64_t count = __atomic_load_n(&next_without, __ATOMIC_RELAXED);
    __atomic_store_n(&without, count, __ATOMIC_RELAXED);
    next = count < MOST_WITHOUT ? 2 * count : MOST_WITHOUT;
  }
  __atomic_store_n(&next_without, next, __ATOMIC_RELAXED);
}

#else

static inline int ask_for_huge_pages(void *out, int64_t bytes) {
  return (void)out, (void)bytes, 0;
}

static inline void give_up_huge_pages(void *out, int64_t bytes) {
  (void)out, (void)bytes;
}

static inline void learn_of_huge_pages(int stalled) { (void)stalled; }

#endif

#endif
