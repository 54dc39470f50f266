/* A piece of work that several threads do together: by OpenMP, whose threads PyTorch has started already, or, where the
   compiler has none (Apple's), by a pool of our own, whose threads sleep between two pieces. */

#if defined(_OPENMP)
#include <omp.h>
#elif defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define POOL 1
#endif

typedef void TeamWork(void *context, int thread, int threads);

#if defined(POOL)

#define MOST_THREADS 256

static struct {
    pthread_mutex_t whole, lock; /* `whole`: one piece of work at a time */
    pthread_cond_t begin, end;
    TeamWork *work;
    void *context;
    int started, threads, left; /* threads that are there; of this piece; of these, those not done */
    unsigned piece;
} pool = {.whole = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .begin = PTHREAD_COND_INITIALIZER,
          .end = PTHREAD_COND_INITIALIZER};

static void *serve_pool(void *number)
{
    const int thread = (int)(intptr_t)number;
    unsigned seen = 0;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (pool.piece == seen || thread >= pool.threads) {
            seen = pool.piece;
            pthread_cond_wait(&pool.begin, &pool.lock);
        }
        seen = pool.piece;
        TeamWork *work = pool.work;
        void *context = pool.context;
        const int threads = pool.threads;
        pthread_mutex_unlock(&pool.lock);
        work(context, thread, threads);
        pthread_mutex_lock(&pool.lock);
        if (--pool.left == 0) pthread_cond_signal(&pool.end);
    }
    return 0;
}

/* A forked process has none of the threads. */
static void forget_pool(void)
{
    pthread_mutex_init(&pool.whole, 0), pthread_mutex_init(&pool.lock, 0);
    pthread_cond_init(&pool.begin, 0), pthread_cond_init(&pool.end, 0);
    pool.started = pool.threads = pool.left = 0;
}

/* Threads 1.. of so many, as far as the system gives them; how many there are, with this one. */
static int start_pool(int threads)
{
    if (pool.started == 0) pthread_atfork(0, 0, forget_pool);
    for (; pool.started < threads - 1 && pool.started < MOST_THREADS - 1; pool.started++) {
        pthread_t thread;
        if (pthread_create(&thread, 0, serve_pool, (void *)(intptr_t)(pool.started + 1))) break;
        pthread_detach(thread);
    }
    return threads < pool.started + 1 ? threads : pool.started + 1;
}

#endif

/* work(context, 0..threads-1, threads), all at once; there may be fewer threads than are asked for. */
static void together(TeamWork *work, void *context, int threads)
{
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
    work(context, omp_get_thread_num(), omp_get_num_threads());
#elif defined(POOL)
    if (threads == 1) {
        work(context, 0, 1);
        return;
    }
    pthread_mutex_lock(&pool.whole);
    pthread_mutex_lock(&pool.lock);
    threads = start_pool(threads);
    pool.work = work, pool.context = context, pool.threads = threads, pool.left = threads - 1;
    pool.piece++;
    pthread_cond_broadcast(&pool.begin);
    pthread_mutex_unlock(&pool.lock);
    work(context, 0, threads);
    pthread_mutex_lock(&pool.lock);
    while (pool.left > 0) pthread_cond_wait(&pool.end, &pool.lock);
    pool.threads = 0;
    pthread_mutex_unlock(&pool.lock);
    pthread_mutex_unlock(&pool.whole);
#else
    work(context, 0, 1);
#endif
}
