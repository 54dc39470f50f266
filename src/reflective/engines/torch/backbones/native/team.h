/* The threads of one pass. Between two phases lies what one thread reads and another wrote; a phase is cut into pieces,
   and is over when all of them are done, whoever did them.

   Where another process keeps a core busy, the system puts a thread aside for milliseconds, in the middle of a piece.
   Nobody waits for it: another one computes an open piece again, each into memory of its own, and the first to be ready
   writes the result. The late one finds its piece done, and every phase that has passed meanwhile over. A piece that is
   not open is too short to be worth it. */

#include <stdatomic.h>
#include <time.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <sched.h>
#include <unistd.h>
#define GIVE_WAY() sched_yield()
#else
#define GIVE_WAY() (void)0
#endif

#define MOST_PIECES 2048  /* of a phase */
#define SPINS 1000        /* about 20 to 50 microseconds */
#define AWAKE_NS 5000000  /* a thread that slept would leave its core to one that is put aside on another, and both would stay there */

typedef struct {
    _Atomic int64_t next;  /* the phase · 2^32 + the first piece that nobody has taken */
    _Atomic int32_t phase; /* how many are over */
    _Atomic int done, arrived, asleep;
    int threads;
    _Atomic int32_t state[MOST_PIECES]; /* of a piece: the phase · 4 + what follows; less where it is not open yet */
} Team;

enum { OPEN = 1, CLOSING, DONE };

typedef struct { /* a thread */
    Team *team;
    int32_t phase; /* the one that it is in */
    int piece;     /* the next one, where it is alone */
    int helps;     /* whether its piece is another's, too */
    int64_t began, lasted; /* its last open piece, in nanoseconds */
} Member;

static int64_t now(void)
{
    struct timespec time;
#if defined(__unix__) || defined(__APPLE__)
    clock_gettime(CLOCK_MONOTONIC, &time);
#else
    timespec_get(&time, TIME_UTC);
#endif
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static inline void rest(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Whether the phase is over that this thread is in: what it would prepare is of no use. */
static inline int late(const Member *me)
{
    return me->team->threads > 1 && atomic_load(&me->team->phase) != me->phase;
}

static void wake_all(Team *team)
{
#if defined(__linux__)
    if (atomic_load(&team->asleep)) syscall(SYS_futex, &team->phase, FUTEX_WAKE_PRIVATE, INT32_MAX, 0, 0, 0);
#else
    (void)team;
#endif
}

/* Wait until the phase is over: -1; or until there is a piece to help with. */
static int wait_or_help(Member *me, int pieces)
{
    Team *team = me->team;
    for (int i = 0; i < SPINS; i++, rest())
        if (late(me)) return -1;
    for (const int64_t start = now(); !late(me);) {
        const int64_t waited = now() - start;
        if (waited > me->lasted)
            for (int i = 0; i < pieces; i++)
                if (atomic_load(&team->state[i]) == me->phase * 4 + OPEN) {
                    me->helps = 1;
                    return i;
                }
#if defined(__linux__)
        if (waited > AWAKE_NS) {
            atomic_fetch_add(&team->asleep, 1);
            syscall(SYS_futex, &team->phase, FUTEX_WAIT_PRIVATE, me->phase, 0, 0, 0);
            atomic_fetch_sub(&team->asleep, 1);
            continue;
        }
#endif
        GIVE_WAY();
    }
    return -1;
}

/* A piece of this phase; -1 when all are done, and the thread is in the next phase. */
static inline int claim(Member *me, int pieces)
{
    Team *team = me->team;
    me->helps = 0;
    if (team->threads == 1) {
        if (me->piece < pieces) return me->piece++;
        me->piece = 0;
        return -1;
    }
    for (int64_t next = atomic_load(&team->next); next >> 32 == me->phase && (int32_t)next < pieces;)
        if (atomic_compare_exchange_weak(&team->next, &next, next + 1)) return (int32_t)next;
    const int piece = wait_or_help(me, pieces);
    if (piece < 0) me->phase++;
    return piece;
}

/* Let others compute this thread's piece, too. */
static inline void open_piece(Member *me, int piece)
{
    if (me->team->threads == 1 || me->helps) return;
    me->began = now();
    atomic_store(&me->team->state[piece], me->phase * 4 + OPEN);
}

/* Whether this thread is the first to be ready with an open piece; it must write it and `finish`. */
static inline int first_ready(Member *me, int piece)
{
    if (me->team->threads == 1) return 1;
    if (!me->helps) me->lasted = now() - me->began;
    int32_t open = me->phase * 4 + OPEN;
    return atomic_compare_exchange_strong(&me->team->state[piece], &open, me->phase * 4 + CLOSING);
}

/* The piece is done; with the last one, the phase. */
static inline void finish(Member *me, int piece, int pieces)
{
    Team *team = me->team;
    if (team->threads == 1) return;
    atomic_store(&team->state[piece], me->phase * 4 + DONE);
    if (atomic_fetch_add(&team->done, 1) < pieces - 1) return;
    atomic_store(&team->done, 0);
    atomic_store(&team->next, (int64_t)(me->phase + 1) << 32);
    atomic_store(&team->phase, me->phase + 1);
    wake_all(team);
}

/* The end of the pass: wait for every thread, the late ones, too. */
static void meet(Member *me)
{
    Team *team = me->team;
    if (team->threads == 1) return;
    if (atomic_fetch_add(&team->arrived, 1) == team->threads - 1) {
        atomic_store(&team->phase, me->phase + 1);
        wake_all(team);
    } else {
        me->lasted = 0;
        wait_or_help(me, 0);
    }
}
