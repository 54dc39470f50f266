/* Products with packed matrices (pack.h), over panels of 16 columns as the rest of the pass has them. Part of kernel.h. */

/* A tile of n columns of 16 rows, turned: 16 rows of 16 columns, of which n hold something. */
static void NAME(turn)(const float *tile, int n, float *rows)
{
    if (n <= 2) {
        for (int c = 0; c < n; c++)
            for (int r = 0; r < STRIP; r++) rows[r * PANEL + c] = tile[c * STRIP + r];
        return;
    }
    for (int c = 0; c < n; c += LANES)
        for (int r = 0; r < STRIP; r += LANES) {
            VECTOR a[LANES], b[LANES];
#pragma GCC unroll 8
            for (int i = 0; i < LANES; i++) a[i] = FROM(tile + (c + i) * STRIP + r);
#pragma GCC unroll 3
            for (int stage = 1; stage < LANES; stage *= 2) { /* each stage interleaves the first half with the second */
#pragma GCC unroll 4
                for (int i = 0; i < LANES / 2; i++) {
#if LANES == 8
                    b[2 * i] = SHUFFLE(a[i], a[i + 4], MASK, 0, 8, 1, 9, 2, 10, 3, 11);
                    b[2 * i + 1] = SHUFFLE(a[i], a[i + 4], MASK, 4, 12, 5, 13, 6, 14, 7, 15);
#else
                    b[2 * i] = SHUFFLE(a[i], a[i + 2], MASK, 0, 4, 1, 5);
                    b[2 * i + 1] = SHUFFLE(a[i], a[i + 2], MASK, 2, 6, 3, 7);
#endif
                }
#pragma GCC unroll 8
                for (int i = 0; i < LANES; i++) a[i] = b[i];
            }
#pragma GCC unroll 8
            for (int i = 0; i < LANES; i++) AT(rows + (r + i) * PANEL + c) = a[i];
        }
}

/* y (P, M, width) = w · x for the strips first..last of w, with C columns; added to y where `add`, else to the bias (M).
   The width is 16, or 1 for a single column: results side by side, where 16 times the memory would have to be touched. */
static void NAME(packed_product)(const Matrix *w, const Prepared *x, const float *bias, int add, Output y, int first, int last,
                                 int C)
{
    const int width = y.width, all = blocks_of(w), depth = DEPTH / block_of(w->kind), M = w->rows;
    for (int begin = 0; begin < all; begin += depth) {
        const int blocks = all - begin < depth ? all - begin : depth;
        for (int strip = first; strip < last; strip++) {
            const int rows = M - strip * STRIP < STRIP ? M - strip * STRIP : STRIP;
            for (int c0 = 0; c0 < C; c0 += PANEL) {
                const int n = C - c0 < PANEL ? C - c0 : PANEL;
                float tile[PANEL * STRIP], turned[PANEL * STRIP], *to = output(&y, c0 / PANEL, strip * STRIP);
                strip_product(w)(w, strip, begin, blocks, x, c0, n, tile);
                NAME(turn)(tile, n, turned);
                for (int r = 0; r < rows; r++) {
                    const float own = bias ? bias[strip * STRIP + r] : 0.0f;
                    for (int c = 0; c < n; c++)
                        to[r * width + c] = (begin == 0 && !add ? own : to[r * width + c]) + turned[r * PANEL + c];
                }
            }
        }
    }
}

/* y (P, I, width) = silu(gate · x) · (up · x); w holds the strips of gate, then those of up. */
static void NAME(packed_gated_product)(const Matrix *w, const Prepared *x, Output y, int first, int last, int I, int C)
{
    const int width = y.width, all = blocks_of(w), half = (I + STRIP - 1) / STRIP;
    for (int strip = first; strip < last; strip++) {
        const int rows = I - strip * STRIP < STRIP ? I - strip * STRIP : STRIP;
        for (int c0 = 0; c0 < C; c0 += PANEL) {
            const int n = C - c0 < PANEL ? C - c0 : PANEL;
            float gate[PANEL * STRIP], up[PANEL * STRIP], *to = output(&y, c0 / PANEL, strip * STRIP);
            strip_product(w)(w, strip, 0, all, x, c0, n, gate);
            strip_product(w)(w, half + strip, 0, all, x, c0, n, up);
            for (int i = 0; i < n * STRIP; i += LANES) /* silu(g) · u = g / (1 + e^-g) · u */
                AT(gate + i) = FROM(gate + i) / (1.0f + NAME(exp)(-FROM(gate + i))) * FROM(up + i);
            NAME(turn)(gate, n, up);
            for (int r = 0; r < rows; r++) memcpy(to + r * width, up + r * PANEL, n * sizeof(float));
        }
    }
}

/* The first of C columns of x (P, K, width) in the form that w's kind multiplies: thread's share of it. */
static void NAME(prepare)(const Matrix *w, const float *x, int width, int C, const Prepared *to, int thread, int threads)
{
    const int blocks = blocks_of(w), panels = (C + PANEL - 1) / PANEL;
    for (int i = (int)((int64_t)blocks * panels * thread / threads); i < (int)((int64_t)blocks * panels * (thread + 1) / threads); i++) {
        const int panel = i / blocks, first = panel * PANEL;
        prepare_block(w, x + (size_t)panel * w->columns * width, width, C - first < PANEL ? C - first : PANEL, i % blocks, first, to);
    }
}
