/*
 * Replies: where one ends, and whether it is the right one.
 *
 * The journal's are lines and are found with memchr; what must be in them stands
 * at fixed places, so the check of an answer to an append costs two memcmp.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>

#include "load.h"

static uint64_t *agent_sequences; /* the last one seen of each agent; NULL: not checked */

void prepare_replies(void)
{
    /* Where two connections write one agent, neither knows which sequence comes next. */
    if (opt.mode == MODE_APPEND && opt.agents >= opt.connections &&
        (!opt.cycle || opt.connections == 1)) {
        agent_sequences = allocate(opt.agents * sizeof *agent_sequences);
        memset(agent_sequences, 0xff, opt.agents * sizeof *agent_sequences);
    }
}

void count_error(const char *what, const char *reply, size_t length)
{
    if (tally.errors++ == 0)
        snprintf(tally.first_error, sizeof tally.first_error, "%s: %.*s", what,
                 (int)(length < 160 ? length : 160), reply);
}

/* The number behind a field's name, or UNKNOWN_SEQUENCE. */
static uint64_t field(const char *line, size_t length, const char *name)
{
    const char *at = memmem(line, length, name, strlen(name));
    return at ? strtoull(at + strlen(name), NULL, 10) : UNKNOWN_SEQUENCE;
}

bool holds(const char *line, size_t length, const char *text)
{
    return memmem(line, length, text, strlen(text)) != NULL;
}

/* True where a line begins as the answer to the request must: its id, then ok. */
static bool is_answer(const char *line, size_t length, const struct request *r)
{
    static const char head[] = "{\"id\":", tail[] = ",\"ok\":true";
    char digits[ID_DIGITS];
    put_digits(digits, r->id, ID_DIGITS);
    return length > sizeof head - 1 + ID_DIGITS + sizeof tail - 1 &&
           !memcmp(line, head, sizeof head - 1) &&
           !memcmp(line + sizeof head - 1, digits, ID_DIGITS) &&
           !memcmp(line + sizeof head - 1 + ID_DIGITS, tail, sizeof tail - 1);
}

static uint64_t check_append(const char *line, size_t length, const struct request *r)
{
    if (!is_answer(line, length, r)) {
        /* A fill that is repeated meets what its forerunner wrote. */
        if (opt.mode == MODE_FILL && (holds(line, length, "\"sequence_conflict\"") ||
                                      holds(line, length, "\"agent_finished\"")))
            tally.present++;
        else
            count_error("not the answer to an append", line, length);
        return 0;
    }
    uint64_t sequence = field(line, length, "\"sequence\":");
    if (sequence == UNKNOWN_SEQUENCE) {
        count_error("an answer without a sequence", line, length);
    } else if (opt.mode == MODE_FILL && sequence != r->sequence) {
        count_error("an answer with another sequence", line, length);
    } else if (agent_sequences) {
        uint64_t *last = &agent_sequences[r->agent];
        if (*last != UNKNOWN_SEQUENCE && sequence != *last + 1)
            count_error("a sequence that does not follow the agent's last", line, length);
        *last = sequence;
    }
    return 1;
}

/* Count a page's entries; each must have the sequence that follows. */
static uint64_t check_page(struct connection *c, const char *line, size_t length,
                           const struct request *r)
{
    static const char name[] = "\"sequence\":";
    if (!is_answer(line, length, r)) {
        count_error("not the answer to a read", line, length);
        return 0;
    }
    uint64_t expected = r->sequence;
    const char *at = line, *end = line + length;
    while ((at = memmem(at, (size_t)(end - at), name, sizeof name - 1))) {
        at += sizeof name - 1;
        if (strtoull(at, NULL, 10) != expected++)
            count_error("a page with a gap", at, (size_t)(end - at));
    }
    uint64_t wanted = r->sequence + page_size(r);
    if (expected < wanted && expected > r->sequence && opt.depth == 1)
        c->cursor = expected; /* the page ended early, at the server's limit of bytes */
    else if (expected != wanted)
        count_error("a page of another size than asked for", line, length);
    return expected - r->sequence;
}

/* The end of the line that begins a RESP value, past its \r\n; NULL if not there yet. */
static const char *resp_line_end(const char *at, const char *end)
{
    const char *newline = memchr(at, '\n', (size_t)(end - at));
    return newline ? newline + 1 : NULL;
}

/*
 * Walk over one RESP value and return where it ends, or NULL if it is not all
 * there.  On the way remember the id of the last stream entry: the first string
 * of a list inside the list.
 */
static const char *resp_end(struct connection *c, const char *at, const char *end, int level,
                            bool is_first)
{
    const char *body = at < end ? resp_line_end(at, end) : NULL;
    if (!body)
        return NULL;
    long count = strtol(at + 1, NULL, 10);
    if (*at == '$') {
        if (count < 0)
            return body;
        if (end - body < count + 2)
            return NULL;
        if (level == 2 && is_first && (size_t)count < sizeof c->last_stream_id) {
            memcpy(c->last_stream_id, body, (size_t)count);
            c->last_stream_id[count] = '\0';
        }
        return body + count + 2;
    }
    if (*at == '*')
        for (long i = 0; body && i < count; i++)
            body = resp_end(c, body, end, level + 1, i == 0);
    return body;
}

static uint64_t check_stream(const char *reply, size_t length, const struct request *r)
{
    if (r->kind != KIND_READ) {
        if (*reply == '$' && memchr(reply, '-', length) && reply[1] != '-')
            return 1;
        count_error("not the id of a stream entry", reply, length);
        return 0;
    }
    uint64_t count = *reply == '*' ? strtoull(reply + 1, NULL, 10) : UNKNOWN_SEQUENCE;
    if (count == page_size(r))
        return count;
    count_error("a page of another size than asked for", reply, length);
    return 0;
}

/* Bytes of the first whole reply behind in_begin, 0 if there is none yet. */
size_t reply_length(struct connection *c)
{
    const char *begin = c->in + c->in_begin, *end = c->in + c->in_end;
    if (opt.wire == WIRE_REDIS) {
        const char *past = resp_end(c, begin, end, 0, false);
        return past ? (size_t)(past - begin) : 0;
    }
    const char *from = begin + c->searched;
    const char *newline = memchr(from, '\n', (size_t)(end - from));
    c->searched = newline ? 0 : (size_t)(end - begin);
    return newline ? (size_t)(newline + 1 - begin) : 0;
}

void take_reply(struct connection *c, size_t length, uint64_t now)
{
    const char *reply = c->in + c->in_begin;
    if (!c->in_flight) {
        count_error("a reply that nobody asked for", reply, length);
        return;
    }
    const struct request *r = &c->flights[c->oldest];
    c->oldest = (c->oldest + 1) % opt.depth;
    c->in_flight--;
    tally.answered++;
    uint64_t entries = opt.wire == WIRE_REDIS ? check_stream(reply, length, r)
                       : r->kind == KIND_READ ? check_page(c, reply, length, r)
                                              : check_append(reply, length, r);
    if (now >= tally.window_from_ns && now < tally.window_to_ns) {
        tally.measured += entries;
        record_latency(now - r->sent_ns);
    }
}
