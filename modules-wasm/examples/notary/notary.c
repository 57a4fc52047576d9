/* A notary: guardians remember when they first saw a digest.
 *
 * Whoever has a document stamps its SHA-256, for a fee. Anybody who has the document
 * later can see at which height and time it was there, and nobody learns what it is.
 *
 * A whole module in C, both halves, to copy: names come from the contract
 * (wit/federation-module.wit) by generated bindings, helpers from modmint.h. Memory ends
 * with the item, so nothing is freed (modules-wasm/sdk-c). */
#include "modmint.h"

#define KIND "notary"
#define DIGEST 32
/* Height, 4 bytes, and seconds since 1970, 8 bytes, big endian. */
#define STAMP 12
/* Millisatoshi. */
#define USUAL_FEE 1000

static uint64_t fee(void) {
    bytes_t config;
    modmint_module_federation_config(&config);
    if (config.len != 8) {
        abort();
    }
    return get_number(config.ptr, 8);
}

static const uint8_t *digest_of(const argument_t *arguments, size_t count, refusal_t *refusal) {
    const value_t *value = find(arguments, count, "digest");
    if (value == NULL || value->val.bytes.len != DIGEST) {
        refuse(refusal, "bad-argument", "a digest is 32 bytes, as sha256sum shows them");
        return NULL;
    }
    return value->val.bytes.ptr;
}

static parameter_t *digest_parameter(void) {
    parameter_t *parameter = calloc(1, sizeof *parameter);
    parameter->name = text("digest");
    parameter->summary = text("SHA-256 of a document, 32 bytes.");
    parameter->kind.tag = MODMINT_MODULE_TYPES_PARAMETER_KIND_BYTES;
    parameter->required = true;
    return parameter;
}

/* What the module is. */

void exports_modmint_module_module_info_describe(
    exports_modmint_module_module_info_description_t *ret) {
    parameter_t *setting = calloc(1, sizeof *setting);
    setting->name = text("fee");
    setting->summary = text("What a stamp costs.");
    setting->kind.tag = MODMINT_MODULE_TYPES_PARAMETER_KIND_AMOUNT;
    setting->default_.is_some = true;
    setting->default_.val.tag = MODMINT_MODULE_TYPES_VALUE_AMOUNT;
    setting->default_.val.val.amount = USUAL_FEE;

    exports_modmint_module_module_info_endpoint_t *query = calloc(1, sizeof *query);
    query->name = text("stamp");
    query->summary = text("When a digest was stamped: 12 bytes, or none.");
    query->parameters.ptr = digest_parameter();
    query->parameters.len = 1;

    memset(ret, 0, sizeof *ret);
    ret->kind = text(KIND);
    ret->version = text("0.1.0");
    ret->summary = text("Remembers when a document was there.");
    ret->server_storage = 1;
    ret->client_storage = 1;
    ret->configuration.ptr = setting;
    ret->configuration.len = 1;
    ret->queries.ptr = query;
    ret->queries.len = 1;
}

bool exports_modmint_module_module_info_configure(
    exports_modmint_module_module_info_list_argument_t *arguments,
    exports_modmint_module_module_info_setup_t *ret, refusal_t *err) {
    const value_t *given = find(arguments->ptr, arguments->len, "fee");
    if (given == NULL || given->val.amount > 100000000) {
        return refuse(err, "bad-argument", "a fee of at most 100000 sat is expected");
    }
    memset(ret, 0, sizeof *ret);
    ret->config.ptr = malloc(8);
    ret->config.len = 8;
    put_number(ret->config.ptr, 8, given->val.amount);
    return true;
}

static string_t show_stamp(const uint8_t *digest, const bytes_t *stamp) {
    json_t json = {0};
    add(&json, "{");
    if (digest != NULL) {
        add(&json, "\"digest\":\"");
        add_hex(&json, digest, DIGEST);
        add(&json, "\",");
    }
    if (stamp->len == STAMP) {
        add(&json, "\"height\":");
        add_number(&json, get_number(stamp->ptr, 4));
        add(&json, ",\"unix_time\":");
        add_number(&json, get_number(stamp->ptr + 4, 8));
    } else {
        add(&json, "\"height\":null,\"unix_time\":null");
    }
    add(&json, "}");
    return finish(&json);
}

bool exports_modmint_module_module_info_render(exports_modmint_module_module_info_item_t *item,
                                               bytes_t *bytes, string_t *ret, refusal_t *err) {
    switch (item->tag) {
    case EXPORTS_MODMINT_MODULE_MODULE_INFO_ITEM_OUTPUT:
        if (bytes->len == DIGEST) {
            json_t json = {0};
            add(&json, "{\"digest\":\"");
            add_hex(&json, bytes->ptr, DIGEST);
            add(&json, "\"}");
            *ret = finish(&json);
            return true;
        }
        break;
    case EXPORTS_MODMINT_MODULE_MODULE_INFO_ITEM_ANSWER:
        if (is(&item->val.answer, "stamp") && (bytes->len == STAMP || bytes->len == 0)) {
            *ret = show_stamp(NULL, bytes);
            return true;
        }
        break;
    }
    return refuse(err, "bad-encoding", "these bytes are none of this module's");
}

/* Guardians: a function of storage, item and what is agreed. */

/* `d`, digest -> stamp */
static bytes_t key_of(const uint8_t *digest) {
    uint8_t *key = malloc(1 + DIGEST);
    key[0] = 'd';
    memcpy(key + 1, digest, DIGEST);
    return (bytes_t){key, 1 + DIGEST};
}

bool exports_modmint_module_server_init(refusal_t *err) { return true; }

bool exports_modmint_module_server_migrate(uint32_t from, bytes_t *cursor,
                                           federation_module_option_list_u8_t *ret,
                                           refusal_t *err) {
    return refuse(err, "no-migration", "storage has had one version only");
}

bool exports_modmint_module_server_process_input(
    bytes_t *input, exports_modmint_module_server_input_effect_t *ret, refusal_t *err) {
    return refuse(err, "no-inputs", "no money comes out of this module");
}

bool exports_modmint_module_server_process_output(
    bytes_t *output, exports_modmint_module_server_out_point_t *out_point,
    exports_modmint_module_server_output_effect_t *ret, refusal_t *err) {
    if (output->len != DIGEST) {
        return refuse(err, "bad-encoding", "a digest is 32 bytes");
    }
    bytes_t key = key_of(output->ptr);
    bytes_t there;
    if (modmint_module_storage_get(&key, &there)) {
        return refuse(err, "stamped-before", "this digest has a stamp already; look at it");
    }
    bytes_t stamp = {malloc(STAMP), STAMP};
    put_number(stamp.ptr, 4, modmint_module_federation_block_height());
    put_number(stamp.ptr + 4, 8, modmint_module_federation_unix_time());
    modmint_module_storage_put(&key, &stamp);
    ret->value = 0;
    ret->fee = fee();
    return true;
}

bool exports_modmint_module_server_process_consensus_item(uint16_t peer, bytes_t *item,
                                                          refusal_t *err) {
    return refuse(err, "no-items", "guardians have nothing to tell each other here");
}

void exports_modmint_module_server_propose(federation_module_list_list_u8_t *ret) {
    memset(ret, 0, sizeof *ret);
}

void exports_modmint_module_server_broadcast(federation_module_list_list_u8_t *ret) {
    memset(ret, 0, sizeof *ret);
}

void exports_modmint_module_server_outcomes(
    exports_modmint_module_server_list_out_point_t *out_points,
    federation_module_list_option_list_u8_t *ret) {
    /* A stamp is asked for by its digest. */
    ret->ptr = calloc(out_points->len, sizeof *ret->ptr);
    ret->len = out_points->len;
}

bool exports_modmint_module_server_query(string_t *name,
                                         exports_modmint_module_server_list_argument_t *arguments,
                                         exports_modmint_module_server_answer_t *ret,
                                         refusal_t *err) {
    const uint8_t *digest = digest_of(arguments->ptr, arguments->len, err);
    if (digest == NULL) {
        return false;
    }
    bytes_t key = key_of(digest);
    ret->tag = EXPORTS_MODMINT_MODULE_SERVER_ANSWER_READY;
    if (!modmint_module_storage_get(&key, &ret->val.ready)) {
        ret->val.ready = (bytes_t){NULL, 0};
    }
    return true;
}

bool exports_modmint_module_server_command(string_t *name,
                                           exports_modmint_module_server_list_argument_t *arguments,
                                           federation_module_list_list_u8_t *ret, refusal_t *err) {
    return refuse(err, "no-such-command", "this module has no commands");
}

void exports_modmint_module_server_audit(exports_modmint_module_server_list_audit_line_t *ret) {
    /* Fees were earned: nothing is owed to anybody. */
    memset(ret, 0, sizeof *ret);
}

/* Wallets: a machine. Its state is a byte that says which, and the digest. */

enum { STAMPING = 1, LOOKING = 2, OVER = 3 };

static void go_to(transition_t *to, uint8_t state, const uint8_t *digest) {
    memset(to, 0, sizeof *to);
    to->state.ptr = malloc(1 + DIGEST);
    to->state.len = 1 + DIGEST;
    to->state.ptr[0] = state;
    memcpy(to->state.ptr + 1, digest, DIGEST);
}

static void stamp(transition_t *to, const uint8_t *digest) {
    go_to(to, STAMPING, digest);
    exports_modmint_module_client_planned_output_t *output = calloc(1, sizeof *output);
    output->output.ptr = malloc(DIGEST);
    output->output.len = DIGEST;
    memcpy(output->output.ptr, digest, DIGEST);
    output->fee = fee();
    want_t *want = wait_for(to, 1);
    want->tag = EXPORTS_MODMINT_MODULE_CLIENT_WANT_SUBMIT;
    want->val.submit.outputs.ptr = output;
    want->val.submit.outputs.len = 1;
    want->val.submit.confirm.is_some = true;
    want->val.submit.confirm.val.summary = text("stamp a digest");
}

static void look(transition_t *to, const uint8_t *digest) {
    go_to(to, LOOKING, digest);
    argument_t *argument = calloc(1, sizeof *argument);
    argument->name = text("digest");
    argument->value.tag = MODMINT_MODULE_TYPES_VALUE_BYTES;
    argument->value.val.bytes.ptr = malloc(DIGEST);
    argument->value.val.bytes.len = DIGEST;
    memcpy(argument->value.val.bytes.ptr, digest, DIGEST);
    want_t *want = wait_for(to, 2);
    want->tag = EXPORTS_MODMINT_MODULE_CLIENT_WANT_QUERY;
    want->val.query.name = text("stamp");
    want->val.query.arguments.ptr = argument;
    want->val.query.arguments.len = 1;
    /* What a threshold of guardians says alike is true. */
    want->val.query.agreement = EXPORTS_MODMINT_MODULE_CLIENT_AGREEMENT_SAME;
}

static void show(transition_t *to, const uint8_t *digest, const bytes_t *answer) {
    go_to(to, OVER, digest);
    to->progress.is_some = true;
    to->progress.val.stage = text(answer->len == STAMP ? "stamped" : "unknown");
    to->progress.val.message = text(
        answer->len == STAMP ? "the document was there at this height and time"
                             : "nobody has stamped this document");
    to->progress.val.details = show_stamp(digest, answer);
    to->finished.is_some = true;
}

static void fail(transition_t *to, const uint8_t *digest, refusal_t why) {
    go_to(to, OVER, digest);
    to->finished.is_some = true;
    to->finished.val.is_err = true;
    to->finished.val.val.err = why;
}

void exports_modmint_module_client_actions(exports_modmint_module_client_list_action_t *ret) {
    ret->len = 2;
    ret->ptr = calloc(ret->len, sizeof *ret->ptr);
    ret->ptr[0].name = text("stamp");
    ret->ptr[0].summary = text("Has the guardians remember that a document is there.");
    ret->ptr[1].name = text("look");
    ret->ptr[1].summary = text("Shows when a document was stamped.");
    for (size_t i = 0; i < ret->len; i++) {
        ret->ptr[i].audience = EXPORTS_MODMINT_MODULE_CLIENT_AUDIENCE_PERSON;
        ret->ptr[i].parameters.ptr = digest_parameter();
        ret->ptr[i].parameters.len = 1;
    }
}

bool exports_modmint_module_client_start(string_t *action,
                                         exports_modmint_module_client_list_argument_t *arguments,
                                         transition_t *ret, refusal_t *err) {
    const uint8_t *digest = digest_of(arguments->ptr, arguments->len, err);
    if (digest == NULL) {
        return false;
    }
    if (is(action, "stamp")) {
        stamp(ret, digest);
        return true;
    }
    if (is(action, "look")) {
        look(ret, digest);
        return true;
    }
    return refuse(err, "no-such-action", "there are: stamp, look");
}

bool exports_modmint_module_client_advance(bytes_t *state,
                                           exports_modmint_module_client_event_t *event,
                                           transition_t *ret, refusal_t *err) {
    /* Bytes that no version of this module wrote are kept for one that can read them. */
    if (state->len != 1 + DIGEST) {
        abort();
    }
    const uint8_t *digest = state->ptr + 1;
    if (event->tag == EXPORTS_MODMINT_MODULE_CLIENT_EVENT_CANCEL) {
        return refuse(err, "on-its-way", "this takes a moment only");
    }
    exports_modmint_module_client_effect_result_t *outcome = &event->val.done.outcome;
    switch (outcome->tag) {
    case EXPORTS_MODMINT_MODULE_CLIENT_EFFECT_RESULT_ACCEPTED:
        look(ret, digest);
        return true;
    case EXPORTS_MODMINT_MODULE_CLIENT_EFFECT_RESULT_ANSWERS:
        if (outcome->val.answers.len > 0) {
            exports_modmint_module_client_result_list_u8_refusal_t *answer =
                &outcome->val.answers.ptr[0].answer;
            if (answer->is_err) {
                fail(ret, digest, answer->val.err);
            } else {
                show(ret, digest, &answer->val.ok);
            }
            return true;
        }
        break;
    case EXPORTS_MODMINT_MODULE_CLIENT_EFFECT_RESULT_REJECTED:
        fail(ret, digest, outcome->val.rejected.refusal);
        return true;
    case EXPORTS_MODMINT_MODULE_CLIENT_EFFECT_RESULT_FAILED:
        fail(ret, digest, outcome->val.failed);
        return true;
    case EXPORTS_MODMINT_MODULE_CLIENT_EFFECT_RESULT_DECLINED:
        fail(ret, digest, (refusal_t){text("declined"), text("nothing was paid")});
        return true;
    }
    fail(ret, digest,
         (refusal_t){text("unexpected-answer"), text("the host answered something else")});
    return true;
}

void exports_modmint_module_client_backup(bytes_t *ret) { *ret = (bytes_t){NULL, 0}; }

bool exports_modmint_module_client_recover(bytes_t *backup, transition_t *ret, refusal_t *err) {
    /* Stamps are the guardians' to remember. */
    static const uint8_t nothing[DIGEST];
    go_to(ret, OVER, nothing);
    ret->finished.is_some = true;
    return true;
}

bool exports_modmint_module_client_migrate(uint32_t from, bytes_t *cursor,
                                           federation_module_option_list_u8_t *ret,
                                           refusal_t *err) {
    return refuse(err, "no-migration", "storage has had one version only");
}
