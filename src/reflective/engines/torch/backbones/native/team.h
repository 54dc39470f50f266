/* The threads of one pass: pieces of work that whoever is free takes, and meetings where all wait for the last one.

   A thread that waits spins for a moment only, then sleeps: where another process keeps a core busy, the system can then
   move the thread that everybody waits for to the core that has become free. */

#include <stdatomic.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__unix__) || defined(__APPLE__)
#include <sched.h>
#endif

#define SPINS 1000 /* about 20 to 50 microseconds */

typedef struct {
    _Atomic int32_t turn; /* the number of meetings that are over */
    _Atomic int arrived, asleep, next[2], threads;
} Team;

/* Wait until every thread has come; `turn` counts this thread's meetings. */
static void meet(Team *team, int32_t *turn)
{
    const int32_t mine = (*turn)++;
    if (team->threads == 1) {
        team->next[mine & 1] = 0;
        return;
    }
    if (atomic_fetch_add(&team->arrived, 1) == team->threads - 1) {
        atomic_store(&team->arrived, 0);
        atomic_store(&team->next[mine & 1], 0); /* for the turn after the next */
        atomic_store(&team->turn, mine + 1);
#if defined(__linux__)
        if (atomic_load(&team->asleep)) syscall(SYS_futex, &team->turn, FUTEX_WAKE_PRIVATE, INT32_MAX, 0, 0, 0);
#endif
        return;
    }
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&team->turn, memory_order_acquire) != mine) return;
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }
    while (atomic_load(&team->turn) == mine) {
#if defined(__linux__)
        atomic_fetch_add(&team->asleep, 1);
        syscall(SYS_futex, &team->turn, FUTEX_WAIT_PRIVATE, mine, 0, 0, 0);
        atomic_fetch_sub(&team->asleep, 1);
#elif defined(__unix__) || defined(__APPLE__)
        sched_yield();
#endif
    }
}

/* The next piece of the work between two meetings: 0, 1, 2, … */
static inline int take(Team *team, int32_t turn)
{
    return atomic_fetch_add_explicit(&team->next[turn & 1], 1, memory_order_relaxed);
}
