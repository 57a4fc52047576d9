/* As much of a C library as a module needs. There is no WASI: a module has the
 * contract's imports and nothing else.
 *
 * Every item and every call outside consensus has an instance of its own, whose memory
 * ends with it. So memory is given and never taken back. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 65536u

extern unsigned char __heap_base;
static size_t heap;

_Noreturn void abort(void) { __builtin_trap(); }

static void *take(size_t size) {
    if (heap == 0) {
        heap = ((size_t)&__heap_base + 15) & ~(size_t)15;
    }
    size_t have = __builtin_wasm_memory_size(0) * PAGE;
    if (size > SIZE_MAX - 15 - heap) {
        abort();
    }
    size_t end = (heap + size + 15) & ~(size_t)15;
    if (end > have) {
        size_t pages = (end - have + PAGE - 1) / PAGE;
        if (__builtin_wasm_memory_grow(0, pages) == (size_t)-1) {
            abort();
        }
    }
    void *taken = (void *)heap;
    heap = end;
    return taken;
}

/* In front of each piece stands its size, for realloc. */
void *malloc(size_t size) {
    if (size > SIZE_MAX - 16) {
        abort();
    }
    size_t *piece = take(size + 16);
    *piece = size;
    return piece + 16 / sizeof *piece;
}

void *calloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        abort();
    }
    return malloc(bytes);
}

void *realloc(void *old, size_t size) {
    void *new = malloc(size);
    if (old != NULL) {
        size_t before = *((size_t *)old - 16 / sizeof(size_t));
        memcpy(new, old, before < size ? before : size);
    }
    return new;
}

void free(void *pointer) { (void)pointer; }

/* Compiled with -fno-builtin, so that these loops are not taken for themselves. */
void *memcpy(void *restrict to, const void *restrict from, size_t length) {
    return memmove(to, from, length);
}

void *memmove(void *to, const void *from, size_t length) {
    unsigned char *t = to;
    const unsigned char *f = from;
    if (t <= f) {
        for (size_t i = 0; i < length; i++) t[i] = f[i];
    } else {
        for (size_t i = length; i > 0; i--) t[i - 1] = f[i - 1];
    }
    return to;
}

void *memset(void *to, int byte, size_t length) {
    unsigned char *t = to;
    for (size_t i = 0; i < length; i++) t[i] = (unsigned char)byte;
    return to;
}

int memcmp(const void *one, const void *other, size_t length) {
    const unsigned char *a = one, *b = other;
    for (size_t i = 0; i < length; i++) {
        if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
    }
    return 0;
}

size_t strlen(const char *text) {
    size_t length = 0;
    while (text[length] != 0) length++;
    return length;
}
