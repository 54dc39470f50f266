/* Runs the compiled step without Python, so that it can run under emulation: a small random model, a prompt, one decoding
   step, the head. Prints one number a line. Arguments: level of the instructions, kind of the weights, threads; or `aside`:
   how two threads share pieces of which one is never computed to its end. Built with -I on the folder of decode.c. */

#include <stdint.h>
#include <time.h>

/* Every seventh open piece takes 5 ms more, as if its thread were put aside. */
static int slow(clockid_t clock, struct timespec *time)
{
    static _Atomic int calls;
    if (calls++ % 7 == 6) nanosleep(&(struct timespec){0, 5000000}, 0);
    return clock_gettime(clock, time);
}
#define clock_gettime slow
#include "decode.c"
#undef clock_gettime

#include <stdio.h>
#include <stdlib.h>

enum { H = 80, I = 37, Q = 4, G = 2, D = 16, V = 150, L = 2, T = 64, R = 3, PROMPT = 20, OUTER = (Q + 2 * G) * D };

static uint64_t state = 1;
static float number(float scale) /* the same everywhere */
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return ((float)(state >> 40) / 8388608.0f - 1.0f) * scale;
}

static float *numbers(size_t n, float scale, float base)
{
    float *out = calloc(n + 64, sizeof(float));
    for (size_t i = 0; i < n; i++) out[i] = base + number(scale);
    return out;
}

static Matrix matrix(int kind, int rows, int columns, int halves) /* halves: 2 for gate and up */
{
    const int part = rows / halves, padded = halves == 1 || kind == DENSE ? rows : (part + STRIP - 1) / STRIP * STRIP + part;
    float *source = numbers((size_t)rows * columns, 0.2f, 0.0f);
    Matrix w = {source, 0, kind, padded, columns};
    if (kind == DENSE) return w;
    int64_t bytes, scales;
    reflective_packed_size(kind, padded, columns, &bytes, &scales);
    w.data = calloc(bytes + 64, 1), w.scale = calloc(scales + 64, 2);
    for (int p = 0; p < halves; p++)
        if (reflective_pack(&w, source + (size_t)p * part * columns, 0, p * (padded - part), part, 3)) exit(3);
    return w;
}

enum { PHASES = 3, PARTS_EACH = 4 };

typedef struct {
    Team team;
    _Atomic int stuck, times_done[PHASES][PARTS_EACH], too_late;
} Shared;

/* Thread 1 opens its first piece and stays in it until every phase is over; thread 0 begins when it is there. */
static void share_pieces(void *context, int thread, int threads)
{
    Shared *shared = context;
    shared->team.threads = threads;
    Member me = {.team = &shared->team};
    while (thread == 0 && !shared->stuck) sched_yield();
    for (int phase = 0; phase < PHASES; phase++)
        for (int i; (i = claim(&me, PARTS_EACH)) >= 0;) {
            open_piece(&me, i);
            if (thread == 1 && !shared->stuck++)
                for (int wait = 0; wait < 10000 && shared->team.phase < PHASES; wait++) nanosleep(&(struct timespec){0, 1000000}, 0);
            if (!first_ready(&me, i)) {
                shared->too_late++;
                continue;
            }
            shared->times_done[phase][i]++;
            finish(&me, i, PARTS_EACH);
        }
    meet(&me);
}

static int put_aside(void)
{
    static Shared shared;
    together(share_pieces, &shared, 2);
    for (int i = 0; i < PHASES * PARTS_EACH; i++) printf("%d\n", shared.times_done[0][i]);
    printf("%d\n", shared.too_late);
    return 0;
}

int main(int count, char **given)
{
    if (count > 1 && !strcmp(given[1], "aside")) return put_aside();
    const int kind = count > 2 ? atoi(given[2]) : DENSE, threads = count > 3 ? atoi(given[3]) : 1;
    if (reflective_set_level(atoi(given[1])) != atoi(given[1])) return 77; /* these instructions are not there */
    Layer layers[L];
    for (int l = 0; l < L; l++)
        layers[l] = (Layer){numbers(H, 0.1f, 1.0f), numbers(OUTER, 0.1f, 0.0f), 0, numbers(H, 0.1f, 1.0f),
                            matrix(kind, OUTER, H, 1), matrix(kind, H, Q * D, 1), matrix(kind, 2 * I, H, 2), matrix(kind, H, I, 1)};
    const Matrix words = matrix(kind, V, H, 1);
    float *data = calloc((size_t)L * 2 * R * G * T * D, sizeof(float)), *cosine = numbers(T * D, 1.0f, 0.0f), *sine = numbers(T * D, 1.0f, 0.0f);
    static float x[2 * 16 * 512], qkv[2 * 16 * 512], attended[2 * 16 * 512], inner[2 * 16 * 512], logits[2 * 16 * 512];
    static float features[2 * 16 * 512], normed[8 * 2 * 16 * 512], scores[8 * T], peaks[4096], weights[4096], plain[4096];
    static float scratch[8 * 4096], codes[2 * 16 * 512], scale[4096];
    static int32_t offset[4096];
    Work work = {x, qkv, attended, inner, logits, features, normed, scores, peaks, weights, plain, scratch,
                 {codes, scale, offset}, 2 * 16 * 512, 4096, threads};
    const int32_t caught[1] = {L - 1};
    Model model = {.layer = layers, .final_norm = numbers(H, 0.1f, 1.0f), .embedding = words, .lm_head = words,
                   .feature_layers = caught, .layers = L, .hidden = H, .inner = I, .queries = Q, .groups = G, .size = D,
                   .vocabulary = V, .features = 1, .eps = 1e-6f};
    Memory kv = {data, cosine, sine, R, T, kind == INT8 || kind == INT4};
    int64_t tokens[32], rows[32], positions[32];
    for (int row = 0; row < R; row++) {
        for (int i = 0; i < PROMPT; i++) tokens[i] = (i * 7 + row) % V, rows[i] = row, positions[i] = i;
        const Columns prompt = {tokens, rows, positions, 0, 0, PROMPT, 1, 0};
        reflective_forward(&model, &kv, &prompt, &work, 0);
    }
    for (int c = 0; c < PROMPT; c += 7)
        for (int v = 0; v < V; v++) printf("%.6g\n", logits[((size_t)(c / 16) * V + v) * 16 + c % 16]);
    for (int row = 0; row < R; row++) tokens[row] = row + 3, rows[row] = row, positions[row] = PROMPT;
    const Columns step = {tokens, rows, positions, 0, 0, R, 0, 0};
    float uniform[R * T] = {0}, ones[16];
    for (int i = 0; i < 16; i++) ones[i] = 1.0f;
    const uint8_t greedy[R] = {1, 1, 1};
    const int64_t places[R] = {0, T, 2 * T};
    int64_t drawn[R], chosen[2] = {2, 0};
    double logprobs[R], judged[2];
    const Draw draw = {uniform, ones, greedy, drawn, logprobs, places, 0};
    reflective_forward(&model, &kv, &step, &work, &draw);
    for (int row = 0; row < R; row++) {
        for (int v = 0; v < V; v++) printf("%.6g\n", logits[(size_t)v * 16 + row]);
        printf("%.6g\n", logprobs[row]);
    }
    float parts[2 * 3 * H];
    const Head head = {numbers(2 * H * H, 0.1f, 0.0f), numbers(2 * H, 0.1f, 0.0f), numbers(2 * H, 0.1f, 0.0f), 0.5f, H, 2 * H};
    reflective_head(&head, features, chosen, 2, parts, judged, threads);
    printf("%.6g\n%.6g\n", judged[0], judged[1]);
    return 0;
}
