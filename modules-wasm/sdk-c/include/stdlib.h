/* What generated bindings take from a C library; see ../sdk.c. */
#ifndef MODMINT_STDLIB_H
#define MODMINT_STDLIB_H
#include <stddef.h>

/* Zeroed, aligned to 16 bytes, never NULL: what cannot be given is a trap. */
void *malloc(size_t size);
void *calloc(size_t count, size_t size);
void *realloc(void *old, size_t size);
void free(void *pointer);
_Noreturn void abort(void);

#endif
