/*
 * Transposed copies of matrices of 16-bit and 32-bit elements.
 *
 *     into[c * into_pitch + r] = from[r * from_pitch + c]     for r < rows, c < columns
 *
 * Pitches are in bytes, and may be anything; nothing has to be aligned. The instructions are those that every x86-64
 * processor has (SSE2); on another architecture the compiler makes what it can of the loop over elements.
 *
 * What decides the speed is the cache, not the instructions. Where stored rows are close together, eight rows of the
 * source at a time are read along: the lines that are stored to stay in the second-level cache until they are full.
 * Where they are far apart, too many of these lines would fall into the same few sets of the cache. There a part of the
 * source is copied together first, with an odd number of lines from row to row, and stored rows are written to their
 * ends one after the other.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LINE 64
#define NEAR 2048             /* bytes between stored rows, up to which they count as close together */
#define ALONG_BYTES (64 << 10) /* lines stored to at a time, where they are */
#define TILE_BYTES (256 << 10) /* of the source copied together, where they are not */
#define TILE_COLUMN_BYTES 512  /* of a row of it */
#define ROWS_AHEAD 8

#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch((address), 0, 3)
#else
#define PREFETCH(address) ((void)(address))
#endif

typedef struct {
    char *into;
    ptrdiff_t into_pitch;
    const char *from;
    ptrdiff_t from_pitch;
} pair;

static inline pair moved(pair at, size_t row, size_t column, size_t itemsize)
{
    at.into += (ptrdiff_t)column * at.into_pitch + (ptrdiff_t)(row * itemsize);
    at.from += (ptrdiff_t)row * at.from_pitch + (ptrdiff_t)(column * itemsize);
    return at;
}

static void elements(pair at, size_t rows, size_t columns, size_t itemsize)
{
    for (size_t column = 0; column < columns; column++)
        for (size_t row = 0; row < rows; row++) {
            pair element = moved(at, row, column, itemsize);
            if (itemsize == 2)
                memcpy(element.into, element.from, 2);
            else
                memcpy(element.into, element.from, 4);
        }
}

#if defined(__SSE2__)
#include <emmintrin.h>

#define SQUARE_2 8
#define SQUARE_4 4
#define LOAD(row) _mm_loadu_si128((const __m128i *)(at.from + (row) * at.from_pitch))
#define STORE(column, value) _mm_storeu_si128((__m128i *)(at.into + (column) * at.into_pitch), (value))

static inline void square_2(pair at)
{
    __m128i a0 = LOAD(0), a1 = LOAD(1), a2 = LOAD(2), a3 = LOAD(3);
    __m128i a4 = LOAD(4), a5 = LOAD(5), a6 = LOAD(6), a7 = LOAD(7);
    __m128i b0 = _mm_unpacklo_epi16(a0, a1), b1 = _mm_unpackhi_epi16(a0, a1);
    __m128i b2 = _mm_unpacklo_epi16(a2, a3), b3 = _mm_unpackhi_epi16(a2, a3);
    __m128i b4 = _mm_unpacklo_epi16(a4, a5), b5 = _mm_unpackhi_epi16(a4, a5);
    __m128i b6 = _mm_unpacklo_epi16(a6, a7), b7 = _mm_unpackhi_epi16(a6, a7);
    __m128i c0 = _mm_unpacklo_epi32(b0, b2), c1 = _mm_unpackhi_epi32(b0, b2);
    __m128i c2 = _mm_unpacklo_epi32(b1, b3), c3 = _mm_unpackhi_epi32(b1, b3);
    __m128i c4 = _mm_unpacklo_epi32(b4, b6), c5 = _mm_unpackhi_epi32(b4, b6);
    __m128i c6 = _mm_unpacklo_epi32(b5, b7), c7 = _mm_unpackhi_epi32(b5, b7);
    STORE(0, _mm_unpacklo_epi64(c0, c4));
    STORE(1, _mm_unpackhi_epi64(c0, c4));
    STORE(2, _mm_unpacklo_epi64(c1, c5));
    STORE(3, _mm_unpackhi_epi64(c1, c5));
    STORE(4, _mm_unpacklo_epi64(c2, c6));
    STORE(5, _mm_unpackhi_epi64(c2, c6));
    STORE(6, _mm_unpacklo_epi64(c3, c7));
    STORE(7, _mm_unpackhi_epi64(c3, c7));
}

static inline void square_4(pair at)
{
    __m128i a0 = LOAD(0), a1 = LOAD(1), a2 = LOAD(2), a3 = LOAD(3);
    __m128i b0 = _mm_unpacklo_epi32(a0, a1), b1 = _mm_unpackhi_epi32(a0, a1);
    __m128i b2 = _mm_unpacklo_epi32(a2, a3), b3 = _mm_unpackhi_epi32(a2, a3);
    STORE(0, _mm_unpacklo_epi64(b0, b2));
    STORE(1, _mm_unpackhi_epi64(b0, b2));
    STORE(2, _mm_unpacklo_epi64(b1, b3));
    STORE(3, _mm_unpackhi_epi64(b1, b3));
}
#else
#define SQUARE_2 16
#define SQUARE_4 8
static inline void square_2(pair at) { elements(at, SQUARE_2, SQUARE_2, 2); }
static inline void square_4(pair at) { elements(at, SQUARE_4, SQUARE_4, 4); }
#endif

/* Writes stored rows to their ends, one group after the other, or reads rows of the source along. */
static inline void squares(pair at, size_t rows, size_t columns, size_t itemsize, int along)
{
    const size_t side = itemsize == 2 ? SQUARE_2 : SQUARE_4;
    const size_t whole_rows = rows - rows % side, whole_columns = columns - columns % side;
    const size_t outer_end = along ? whole_rows : whole_columns, inner_end = along ? whole_columns : whole_rows;
    for (size_t outer = 0; outer < outer_end; outer += side)
        for (size_t inner = 0; inner < inner_end; inner += side) {
            pair square = along ? moved(at, outer, inner, itemsize) : moved(at, inner, outer, itemsize);
            if (itemsize == 2)
                square_2(square);
            else
                square_4(square);
        }
    elements(moved(at, whole_rows, 0, itemsize), rows - whole_rows, whole_columns, itemsize);
    elements(moved(at, 0, whole_columns, itemsize), rows, columns - whole_columns, itemsize);
}

static inline void near(pair at, size_t rows, size_t columns, size_t itemsize)
{
    const size_t lines = ALONG_BYTES / LINE;
    const size_t width = at.into_pitch > NEAR / 2 ? lines / 2 : lines;
    for (size_t column = 0; column < columns; column += width) {
        size_t count = columns - column < width ? columns - column : width;
        squares(moved(at, 0, column, itemsize), rows, count, itemsize, 1);
    }
}

static inline void far(pair at, size_t rows, size_t columns, size_t itemsize)
{
    char tile[TILE_BYTES + LINE];
    const size_t width = TILE_COLUMN_BYTES / itemsize;
    for (size_t column = 0; column < columns; column += width) {
        const size_t count = columns - column < width ? columns - column : width;
        const size_t nbytes = count * itemsize, pitch = ((nbytes + LINE - 1) / LINE | 1) * LINE;
        const size_t height = TILE_BYTES / pitch;
        for (size_t row = 0; row < rows; row += height) {
            const size_t high = rows - row < height ? rows - row : height;
            pair part = moved(at, row, column, itemsize);
            for (size_t each = 0; each < high; each++) {
                const char *source = part.from + (ptrdiff_t)each * part.from_pitch;
                if (each + ROWS_AHEAD < high)
                    for (size_t line = 0; line < nbytes; line += LINE)
                        PREFETCH(source + ROWS_AHEAD * part.from_pitch + line);
                memcpy(tile + each * pitch, source, nbytes);
            }
            part.from = tile;
            part.from_pitch = (ptrdiff_t)pitch;
            squares(part, high, count, itemsize, 0);
        }
    }
}

static inline void transpose(pair at, size_t rows, size_t columns, size_t itemsize)
{
    if (at.into_pitch <= NEAR)
        near(at, rows, columns, itemsize);
    else
        far(at, rows, columns, itemsize);
}

void neuronmodel_transpose_2(
    char *into, ptrdiff_t into_pitch, const char *from, ptrdiff_t from_pitch, size_t rows, size_t columns)
{
    transpose((pair){into, into_pitch, from, from_pitch}, rows, columns, 2);
}

void neuronmodel_transpose_4(
    char *into, ptrdiff_t into_pitch, const char *from, ptrdiff_t from_pitch, size_t rows, size_t columns)
{
    transpose((pair){into, into_pitch, from, from_pitch}, rows, columns, 4);
}
