/* A guestbook: whoever pays the fee leaves a line, and anybody reads them.
 *
 * Both halves of the module are here. Guardians call what begins with
 * exports_modmint_module_server, wallets what begins with exports_modmint_module_client; what
 * each is for stands in the contract, wit/federation-module.wit. Memory ends with the item,
 * so nothing is freed. */
#include "modmint.h"

#define LONGEST 80
/* So many lines are read at once. */
#define PAGE 20
/* Millisatoshi. */
#define USUAL_FEE 1000

static parameter_t *parameter(const char *name, const char *summary, uint8_t kind) {
    parameter_t *parameter = calloc(1, sizeof *parameter);
    parameter->name = text(name);
    parameter->summary = text(summary);
    parameter->kind.tag = kind;
    return parameter;
}

/* From which line on; the host passes 0 where nobody said. */
static parameter_t *from_parameter(void) {
    parameter_t *from = parameter("from", "The first line to be read, counted from 0.",
                                  MODMINT_MODULE_TYPES_PARAMETER_KIND_NUMBER);
    from->default_.is_some = true;
    from->default_.val.tag = MODMINT_MODULE_TYPES_VALUE_NUMBER;
    return from;
}

/* What a line costs: `configure` wrote it. */
static uint64_t fee(void) {
    bytes_t config;
    modmint_module_federation_config(&config);
    if (config.len != 8) {
        abort();
    }
    return get_number(config.ptr, 8);
}

static bool is_line(const uint8_t *line, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (line[i] < ' ' || line[i] > '~') {
            return false;
        }
    }
    return length > 0 && length <= LONGEST;
}

static bool refuse_line(refusal_t *err) {
    return refuse(err, "bad-line", "1 to 80 printable ASCII characters are expected");
}

/* What the module is. */

void exports_modmint_module_module_info_describe(
    exports_modmint_module_module_info_description_t *ret) {
    parameter_t *setting =
        parameter("fee", "What a line costs.", MODMINT_MODULE_TYPES_PARAMETER_KIND_AMOUNT);
    setting->default_.is_some = true;
    setting->default_.val.tag = MODMINT_MODULE_TYPES_VALUE_AMOUNT;
    setting->default_.val.val.amount = USUAL_FEE;

    exports_modmint_module_module_info_endpoint_t *query = calloc(1, sizeof *query);
    query->name = text("lines");
    query->summary = text("Lines, oldest first, each behind its length.");
    query->parameters.ptr = from_parameter();
    query->parameters.len = 1;

    memset(ret, 0, sizeof *ret);
    ret->kind = text("@name@");
    ret->version = text("0.1.0");
    ret->summary = text("Lines that stay.");
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

/* An answer of `lines` as JSON; false if it is none. */
static bool show_lines(const bytes_t *answer, string_t *ret) {
    json_t json = {0};
    add(&json, "{\"lines\":[");
    for (size_t at = 0; at < answer->len;) {
        size_t length = answer->ptr[at];
        const uint8_t *line = answer->ptr + at + 1;
        if (length > answer->len - at - 1 || !is_line(line, length)) {
            return false;
        }
        add(&json, at > 0 ? "," : "");
        add_text(&json, line, length);
        at += 1 + length;
    }
    add(&json, "]}");
    *ret = finish(&json);
    return true;
}

bool exports_modmint_module_module_info_render(exports_modmint_module_module_info_item_t *item,
                                               bytes_t *bytes, string_t *ret, refusal_t *err) {
    if (item->tag == EXPORTS_MODMINT_MODULE_MODULE_INFO_ITEM_OUTPUT &&
        is_line(bytes->ptr, bytes->len)) {
        json_t json = {0};
        add(&json, "{\"line\":");
        add_text(&json, bytes->ptr, bytes->len);
        add(&json, "}");
        *ret = finish(&json);
        return true;
    }
    if (item->tag == EXPORTS_MODMINT_MODULE_MODULE_INFO_ITEM_ANSWER && show_lines(bytes, ret)) {
        return true;
    }
    return refuse(err, "bad-encoding", "these bytes are none of this module's");
}

/* Guardians: a function of storage, item and what is agreed. */

/* `n` -> how many lines there are, 8 bytes */
static uint8_t count_name[] = {'n'};
static bytes_t count_key = {count_name, sizeof count_name};

/* `l`, number (8 bytes) -> line */
static bytes_t line_key(uint64_t number) {
    uint8_t *key = malloc(9);
    key[0] = 'l';
    put_number(key + 1, 8, number);
    return (bytes_t){key, 9};
}

static uint64_t count(void) {
    bytes_t count;
    return modmint_module_storage_get(&count_key, &count) ? get_number(count.ptr, 8) : 0;
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
    if (!is_line(output->ptr, output->len)) {
        return refuse_line(err);
    }
    uint64_t number = count();
    bytes_t key = line_key(number);
    modmint_module_storage_put(&key, output);
    bytes_t next = {malloc(8), 8};
    put_number(next.ptr, 8, number + 1);
    modmint_module_storage_put(&count_key, &next);
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
    /* None: lines are asked for by their numbers. */
    ret->ptr = calloc(out_points->len, sizeof *ret->ptr);
    ret->len = out_points->len;
}

bool exports_modmint_module_server_query(string_t *name,
                                         exports_modmint_module_server_list_argument_t *arguments,
                                         exports_modmint_module_server_answer_t *ret,
                                         refusal_t *err) {
    const value_t *from = find(arguments->ptr, arguments->len, "from");
    if (from == NULL) {
        return refuse(err, "bad-argument", "`from` is missing");
    }
    uint64_t number = from->val.number, end = count();
    bytes_t answer = {malloc(PAGE * (1 + LONGEST)), 0};
    for (size_t read = 0; read < PAGE && number < end; read++, number++) {
        bytes_t key = line_key(number), line;
        if (!modmint_module_storage_get(&key, &line)) {
            abort();
        }
        answer.ptr[answer.len] = (uint8_t)line.len;
        memcpy(answer.ptr + answer.len + 1, line.ptr, line.len);
        answer.len += 1 + line.len;
    }
    ret->tag = EXPORTS_MODMINT_MODULE_SERVER_ANSWER_READY;
    ret->val.ready = answer;
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

/* Wallets: a machine. Its state is a byte that says which and, while it signs, how often that
 * was tried and the line. Newer versions read what older ones wrote, so numbers are only ever
 * added. */

enum { SIGNING = 1, READING = 2, OVER = 3 };

/* How often a transaction is tried that was refused for somebody else's item: for e-cash that
 * the wallet added, mostly, of which it takes another note the next time. */
#define ATTEMPTS 5

static void go_to(transition_t *to, uint8_t state) {
    memset(to, 0, sizeof *to);
    to->state.ptr = malloc(1);
    to->state.len = 1;
    to->state.ptr[0] = state;
}

static void sign(transition_t *to, bytes_t line, uint8_t attempt) {
    go_to(to, SIGNING);
    to->state.ptr = malloc(2 + line.len);
    to->state.len = 2 + line.len;
    to->state.ptr[0] = SIGNING;
    to->state.ptr[1] = attempt;
    memcpy(to->state.ptr + 2, line.ptr, line.len);
    exports_modmint_module_client_planned_output_t *output = calloc(1, sizeof *output);
    output->output = line;
    output->fee = fee();
    want_t *want = wait_for(to, attempt);
    want->tag = EXPORTS_MODMINT_MODULE_CLIENT_WANT_SUBMIT;
    want->val.submit.outputs.ptr = output;
    want->val.submit.outputs.len = 1;
    /* The person is asked once: what was confirmed for a transaction that was refused is not
     * spent. */
    want->val.submit.confirm.is_some = attempt == 1;
    want->val.submit.confirm.val.summary = text("leave a line");
}

static void read(transition_t *to, uint64_t from) {
    go_to(to, READING);
    argument_t *argument = calloc(1, sizeof *argument);
    argument->name = text("from");
    argument->value.tag = MODMINT_MODULE_TYPES_VALUE_NUMBER;
    argument->value.val.number = from;
    want_t *want = wait_for(to, 0);
    want->tag = EXPORTS_MODMINT_MODULE_CLIENT_WANT_QUERY;
    want->val.query.name = text("lines");
    want->val.query.arguments.ptr = argument;
    want->val.query.arguments.len = 1;
    /* What a threshold of guardians says alike is true. */
    want->val.query.agreement = EXPORTS_MODMINT_MODULE_CLIENT_AGREEMENT_SAME;
}

static void show(transition_t *to, const char *stage, const char *message, string_t details) {
    go_to(to, OVER);
    to->progress.is_some = true;
    to->progress.val.stage = text(stage);
    to->progress.val.message = text(message);
    to->progress.val.details = details;
    to->finished.is_some = true;
}

static void fail(transition_t *to, refusal_t why) {
    go_to(to, OVER);
    to->finished.is_some = true;
    to->finished.val.is_err = true;
    to->finished.val.val.err = why;
}

void exports_modmint_module_client_actions(exports_modmint_module_client_list_action_t *ret) {
    ret->len = 2;
    ret->ptr = calloc(ret->len, sizeof *ret->ptr);
    for (size_t i = 0; i < ret->len; i++) {
        ret->ptr[i].audience = EXPORTS_MODMINT_MODULE_CLIENT_AUDIENCE_PERSON;
        ret->ptr[i].parameters.len = 1;
    }
    ret->ptr[0].name = text("sign");
    ret->ptr[0].summary = text("Leaves a line.");
    ret->ptr[0].parameters.ptr =
        parameter("line", "What shall stand there.", MODMINT_MODULE_TYPES_PARAMETER_KIND_TEXT);
    ret->ptr[0].parameters.ptr->required = true;
    ret->ptr[1].name = text("read");
    ret->ptr[1].summary = text("Shows lines, oldest first.");
    ret->ptr[1].parameters.ptr = from_parameter();
}

bool exports_modmint_module_client_start(string_t *action,
                                         exports_modmint_module_client_list_argument_t *arguments,
                                         transition_t *ret, refusal_t *err) {
    const value_t *line = find(arguments->ptr, arguments->len, "line");
    const value_t *from = find(arguments->ptr, arguments->len, "from");
    if (is(action, "sign") && line != NULL) {
        if (!is_line(line->val.text.ptr, line->val.text.len)) {
            return refuse_line(err);
        }
        sign(ret, (bytes_t){line->val.text.ptr, line->val.text.len}, 1);
        return true;
    }
    if (is(action, "read") && from != NULL) {
        read(ret, from->val.number);
        return true;
    }
    return refuse(err, "no-such-action", "there are: sign, read");
}

bool exports_modmint_module_client_advance(bytes_t *state,
                                           exports_modmint_module_client_event_t *event,
                                           transition_t *ret, refusal_t *err) {
    /* Bytes that no version of this module wrote are kept for one that can read them. */
    if (state->len == 0 || state->ptr[0] < SIGNING || state->ptr[0] > OVER ||
        (state->ptr[0] == SIGNING) != (state->len > 2)) {
        abort();
    }
    if (event->tag == EXPORTS_MODMINT_MODULE_CLIENT_EVENT_CANCEL) {
        return refuse(err, "on-its-way", "this takes a moment only");
    }
    exports_modmint_module_client_effect_result_t *outcome = &event->val.done.outcome;
    switch (outcome->tag) {
    case EXPORTS_MODMINT_MODULE_CLIENT_EFFECT_RESULT_ACCEPTED:
        show(ret, "signed", "the line stands there", text("{}"));
        return true;
    case EXPORTS_MODMINT_MODULE_CLIENT_EFFECT_RESULT_ANSWERS:
        if (outcome->val.answers.len > 0) {
            exports_modmint_module_client_result_list_u8_refusal_t *answer =
                &outcome->val.answers.ptr[0].answer;
            string_t lines;
            if (answer->is_err) {
                fail(ret, answer->val.err);
                return true;
            }
            if (show_lines(&answer->val.ok, &lines)) {
                show(ret, "read", "what stands there", lines);
                return true;
            }
        }
        break;
    case EXPORTS_MODMINT_MODULE_CLIENT_EFFECT_RESULT_REJECTED:
        if (state->ptr[0] == SIGNING && state->ptr[1] < ATTEMPTS &&
            !outcome->val.rejected.input.is_some && !outcome->val.rejected.output.is_some) {
            sign(ret, (bytes_t){state->ptr + 2, state->len - 2}, state->ptr[1] + 1);
            return true;
        }
        fail(ret, outcome->val.rejected.refusal);
        return true;
    case EXPORTS_MODMINT_MODULE_CLIENT_EFFECT_RESULT_FAILED:
        fail(ret, outcome->val.failed);
        return true;
    case EXPORTS_MODMINT_MODULE_CLIENT_EFFECT_RESULT_DECLINED:
        fail(ret, (refusal_t){text("declined"), text("nothing was paid")});
        return true;
    }
    fail(ret, (refusal_t){text("unexpected-answer"), text("the host answered something else")});
    return true;
}

void exports_modmint_module_client_backup(bytes_t *ret) { *ret = (bytes_t){NULL, 0}; }

bool exports_modmint_module_client_recover(bytes_t *backup, transition_t *ret, refusal_t *err) {
    /* Lines are the guardians' to remember. */
    go_to(ret, OVER);
    ret->finished.is_some = true;
    return true;
}

bool exports_modmint_module_client_migrate(uint32_t from, bytes_t *cursor,
                                           federation_module_option_list_u8_t *ret,
                                           refusal_t *err) {
    return refuse(err, "no-migration", "storage has had one version only");
}
