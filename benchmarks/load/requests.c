/*
 * Requests: what a connection asks next, and the bytes of it.
 *
 * Rendering is on the hot path, so the bytes of an append are copied from a
 * template made beforehand and only digits are written into the copy: the id,
 * the agent's number and, in a fill, the sequence that is expected.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "load.h"

/* A request's bytes with the places of the digits that differ from one to the next. */
struct template {
    char *bytes;
    size_t length, id_at, agent_at, sequence_at; /* 0: has no such place */
};

static struct template templates[KINDS];
static int agent_digits;

void put_digits(char *at, uint64_t value, int digits)
{
    while (digits-- > 0) {
        at[digits] = (char)('0' + value % 10);
        value /= 10;
    }
}

/* JSON allows no leading zeros, but any white space before a number. */
static void put_padded(char *at, uint64_t value, int width)
{
    do {
        at[--width] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    while (width > 0)
        at[--width] = ' ';
}

/* One event of exactly the wanted size: what a turn with three tool calls leaves. */
static char *build_event(enum kind kind)
{
    if (kind == KIND_STARTED)
        return strdup("{\"Started\":{\"kind\":\"benchmark\",\"goal\":\"fill a journal\"}}");
    if (kind == KIND_TERMINATED)
        return strdup("{\"Terminated\":{\"reason\":\"Completed\",\"iterations\":1}}");
    static const char head[] = "{\"ToolsDispatched\":{\"tool_count\":3,\"tools\":"
                               "[\"read_file\",\"search\",\"write_file\"],\"summary\":\"";
    static const char tail[] = "\"}}";
    static const char text[] = "the quick brown fox jumps over the lazy dog, ";
    size_t frame = sizeof head - 1 + sizeof tail - 1;
    if (opt.bytes < frame)
        die("--bytes must be at least %zu", frame);
    char *event = allocate(opt.bytes + 1);
    memcpy(event, head, sizeof head - 1);
    for (size_t i = sizeof head - 1; i < opt.bytes - (sizeof tail - 1); i++)
        event[i] = text[i % (sizeof text - 1)];
    memcpy(event + opt.bytes - (sizeof tail - 1), tail, sizeof tail - 1);
    return event;
}

static void build_template(enum kind kind)
{
    struct template *t = &templates[kind];
    char *event = build_event(kind);
    int agent_bytes = (int)strlen(opt.prefix) + 1 + agent_digits;
    char *b = t->bytes = allocate(strlen(event) + ENVELOPE_BYTES_MAX);
    int n;
    if (opt.wire == WIRE_JOURNAL) {
        n = sprintf(b, "{\"id\":");
        t->id_at = (size_t)n;
        n += sprintf(b + n, "%llu,\"op\":\"append\",\"agent_id\":\"%s-", ID_FIRST, opt.prefix);
        t->agent_at = (size_t)n;
        n += sprintf(b + n, "%0*d\",\"iteration\":1", agent_digits, 0);
        if (opt.mode == MODE_FILL) {
            n += sprintf(b + n, ",\"expected_sequence\":");
            t->sequence_at = (size_t)n;
            n += sprintf(b + n, "%*d", ID_DIGITS, 0);
        }
        n += sprintf(b + n, ",\"event\":%s}\n", event);
    } else {
        n = sprintf(b, "*5\r\n$4\r\nXADD\r\n$%d\r\n%s-", agent_bytes, opt.prefix);
        t->agent_at = (size_t)n;
        n += sprintf(b + n, "%0*d\r\n$1\r\n*\r\n$1\r\ne\r\n$%zu\r\n%s\r\n",
                     agent_digits, 0, strlen(event), event);
    }
    t->length = (size_t)n;
    free(event);
}

/* The entries that a page is to hold: the last one of a pass may hold fewer. */
uint64_t page_size(const struct request *r)
{
    uint64_t left = opt.entries - r->sequence;
    return left < opt.page ? left : opt.page;
}

static size_t render_read(char *out, const struct connection *c, const struct request *r)
{
    if (opt.wire == WIRE_JOURNAL)
        return (size_t)sprintf(out,
                               "{\"id\":%" PRIu64 ",\"op\":\"read\",\"agent_id\":\"%s\","
                               "\"from_sequence\":%" PRIu64 ",\"limit\":%" PRIu64 "}\n",
                               r->id, opt.agent, r->sequence, page_size(r));
    char from[80], page[24];
    bool is_first = r->sequence == 0;
    snprintf(from, sizeof from, "%s%s", is_first ? "-" : "(", is_first ? "" : c->last_stream_id);
    snprintf(page, sizeof page, "%" PRIu64, page_size(r));
    return (size_t)sprintf(out,
                           "*6\r\n$6\r\nXRANGE\r\n$%zu\r\n%s\r\n$%zu\r\n%s\r\n$1\r\n+\r\n"
                           "$5\r\nCOUNT\r\n$%zu\r\n%s\r\n",
                           strlen(opt.agent), opt.agent, strlen(from), from, strlen(page), page);
}

size_t render(char *out, const struct connection *c, const struct request *r)
{
    if (r->kind == KIND_READ)
        return render_read(out, c, r);
    const struct template *t = &templates[r->kind];
    memcpy(out, t->bytes, t->length);
    put_digits(out + t->agent_at, opt.first + r->agent * opt.stride, agent_digits);
    if (t->id_at)
        put_digits(out + t->id_at, r->id, ID_DIGITS);
    if (t->sequence_at)
        put_padded(out + t->sequence_at, r->sequence, ID_DIGITS);
    return t->length;
}

void prepare_requests(void)
{
    char number[24];
    int needed = snprintf(number, sizeof number, "%" PRIu64,
                          opt.first + (opt.agents - 1) * opt.stride);
    agent_digits = opt.digits ? (int)opt.digits : opt.mode == MODE_FILL ? 7 : 3;
    /* The parts of a fill must agree on its agents' ids, so there nothing is widened silently. */
    if (!opt.digits && opt.mode != MODE_FILL && needed > agent_digits)
        agent_digits = needed;
    if (opt.digits > 20 || needed > agent_digits)
        die("agent %s does not fit --digits %d", number, agent_digits);
    for (int kind = 0; kind < KIND_READ; kind++)
        build_template((enum kind)kind);
}

/* Agents in turn: the connection's own share of them, or all. */
static bool plan_append(struct connection *c, struct request *r)
{
    if (opt.requests && tally.issued >= opt.requests)
        return false;
    r->kind = KIND_EVENT;
    if (opt.cycle) {
        r->agent = (c->index * opt.agents / opt.connections + c->turn++) % opt.agents;
        return true;
    }
    r->agent = c->index % opt.agents + c->turn++ * opt.connections;
    if (r->agent >= opt.agents) {
        r->agent = c->index % opt.agents;
        c->turn = 1;
    }
    return true;
}

/*
 * Agents are written some at a time and entry by entry in turn, as agents that
 * run side by side would be: Started for each of them, then their events, then
 * their Terminated.
 */
static bool plan_fill(struct connection *c, struct request *r)
{
    uint64_t own = (opt.agents + opt.connections - 1 - c->index) / opt.connections;
    uint64_t group = c->turn / (opt.interleave * opt.entries) * opt.interleave;
    if (group >= own)
        return false;
    uint64_t width = own - group < opt.interleave ? own - group : opt.interleave;
    uint64_t place = c->turn % (opt.interleave * opt.entries);
    if (place >= width * opt.entries)
        return false;
    uint64_t nth = c->index + (group + place % width) * opt.connections;
    c->turn++;
    r->agent = nth;
    r->sequence = place / width;
    bool ends = r->sequence == opt.entries - 1 &&
                !(opt.unfinished && (opt.first + nth) % opt.unfinished == 0);
    r->kind = r->sequence == 0 ? KIND_STARTED : ends ? KIND_TERMINATED : KIND_EVENT;
    return true;
}

static bool plan_read(struct connection *c, struct request *r)
{
    static uint64_t passes; /* of all connections */
    if (c->cursor >= opt.entries) {
        if (opt.requests && ++passes >= opt.requests)
            return false;
        c->cursor = 0;
    }
    r->kind = KIND_READ;
    r->sequence = c->cursor;
    c->cursor += opt.page;
    return true;
}

bool plan(struct connection *c, struct request *r)
{
    switch (opt.mode) {
    case MODE_APPEND: return plan_append(c, r);
    case MODE_FILL:   return plan_fill(c, r);
    case MODE_READ:   return plan_read(c, r);
    default:          return false;
    }
}
