/* What modules in C need again and again, over the bindings that are generated from the
 * contract. A convenience: a module may use the bindings alone. */
#ifndef MODMINT_H
#define MODMINT_H
#include <stdlib.h>
#include <string.h>

#include "federation_module.h"

typedef federation_module_list_u8_t bytes_t;
typedef federation_module_string_t string_t;
typedef modmint_module_types_refusal_t refusal_t;
typedef modmint_module_types_argument_t argument_t;
typedef modmint_module_types_parameter_t parameter_t;
typedef modmint_module_types_value_t value_t;
typedef exports_modmint_module_client_transition_t transition_t;
typedef exports_modmint_module_client_want_t want_t;

/* Texts. */

static inline string_t text(const char *text) {
    return (string_t){(uint8_t *)text, strlen(text)};
}

/* Always false, as the contract's functions answer when they refuse. */
static inline bool refuse(refusal_t *refusal, const char *code, const char *message) {
    *refusal = (refusal_t){text(code), text(message)};
    return false;
}

static inline bool is(const string_t *given, const char *wanted) {
    return given->len == strlen(wanted) && memcmp(given->ptr, wanted, given->len) == 0;
}

/* JSON in the making: begins as {0}. */
typedef struct {
    uint8_t *at;
    size_t length, room;
} json_t;

static inline void add_bytes(json_t *json, const void *bytes, size_t length) {
    if (length > json->room - json->length) {
        json->room = 2 * json->room + length + 128;
        json->at = realloc(json->at, json->room);
    }
    memcpy(json->at + json->length, bytes, length);
    json->length += length;
}

static inline void add(json_t *json, const char *text) { add_bytes(json, text, strlen(text)); }

static inline void add_number(json_t *json, uint64_t number) {
    char digits[21];
    size_t first = sizeof digits - 1;
    digits[first] = 0;
    do {
        digits[--first] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    add(json, digits + first);
}

static inline void add_hex(json_t *json, const uint8_t *bytes, size_t length) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < length; i++) {
        char pair[3] = {digits[bytes[i] >> 4], digits[bytes[i] & 15], 0};
        add(json, pair);
    }
}

/* Printable ASCII, in quotes. */
static inline void add_text(json_t *json, const uint8_t *ascii, size_t length) {
    add(json, "\"");
    for (size_t i = 0; i < length; i++) {
        if (ascii[i] == '"' || ascii[i] == '\\') {
            add(json, "\\");
        }
        add_bytes(json, ascii + i, 1);
    }
    add(json, "\"");
}

static inline string_t finish(const json_t *json) { return (string_t){json->at, json->length}; }

/* Numbers, big endian, so that keys keep their order. */

static inline void put_number(uint8_t *to, size_t length, uint64_t number) {
    for (size_t i = length; i > 0; i--) {
        to[i - 1] = (uint8_t)number;
        number >>= 8;
    }
}

static inline uint64_t get_number(const uint8_t *from, size_t length) {
    uint64_t number = 0;
    for (size_t i = 0; i < length; i++) {
        number = number << 8 | from[i];
    }
    return number;
}

/* What is asked for. The host has checked names and kinds, and passes defaults. */
static inline const value_t *find(const argument_t *arguments, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++) {
        if (is(&arguments[i].name, name)) {
            return &arguments[i].value;
        }
    }
    return NULL;
}

/* The one effect that a transition waits for. */
static inline want_t *wait_for(transition_t *to, uint32_t id) {
    exports_modmint_module_client_effect_t *effect = calloc(1, sizeof *effect);
    effect->id = id;
    to->effects.ptr = effect;
    to->effects.len = 1;
    return &effect->want;
}

#endif
