/*
 * A load generator for the journal and for Redis Streams.
 *
 * One thread, one epoll, many connections over a Unix socket, each with a fixed
 * number of requests in flight: a new one is sent for each answer.  Both wires
 * are driven by the same loop, carry the same event bytes and are measured with
 * the same clock, so that a comparison compares the servers and not two clients.
 *
 * The generator must not be what is measured.  So requests are copies of a
 * template in which only digits change, everything that one read answered is
 * asked again in one write, replies are found with memchr and not by a JSON
 * parser, and latencies go into a histogram of fixed size.  The CPU time that
 * the generator itself took is part of the report: near one second a second,
 * the generator was the bottleneck and the figure says nothing about the server.
 *
 * Every reply is checked.  The journal's must be ok, carry the id of the oldest
 * request in flight (replies come in request order) and, where one connection
 * alone writes an agent, a sequence that follows the agent's last one without a
 * gap.  Redis' must be the id of a stream entry.  Anything else is an error, is
 * counted, shown, and makes the exit status 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ULL
#define ID_FIRST 100000000ULL       /* ids keep nine digits, so a template's length never changes */
#define ID_DIGITS 9
#define READ_BYTES (256 * 1024)     /* one recv takes what a busy server has written meanwhile */
#define ENVELOPE_BYTES_MAX 512      /* of a request, around its event */
#define DRAIN_NS_MAX (30 * NS_PER_S) /* how long answers may be late once sending has stopped */
#define UNKNOWN_SEQUENCE UINT64_MAX

static const char USAGE[] =
    "usage: load --socket PATH [--wire journal|redis] [--mode append|fill|read|idle] ...\n"
    "\n"
    "  --connections C   connections (1)\n"
    "  --depth D         requests in flight on each connection (1)\n"
    "  --agents K        agents, or streams, written to (100)\n"
    "  --layout share    each connection writes its own share of the agents (default)\n"
    "           cycle    each connection writes to all of them in turn\n"
    "  --prefix P        agent ids are P-000, P-001, ... (agent)\n"
    "  --bytes B         bytes of one event's JSON (300)\n"
    "  --seconds S       run for so long (3), or\n"
    "  --requests N      stop after N requests (read: after N passes over the agent)\n"
    "  --warmup S        leave the first S seconds out of the figures (0.3; 0 with --requests)\n"
    "  --first N         number of the first agent (0)\n"
    "  --stride N        only every Nth agent number is written (1)\n"
    "  --digits W        digits of the agent number (3; fill: 7)\n"
    "\n"
    "  append  writes events; reports durable entries a second and their latency\n"
    "  fill    writes whole agents: Started, events, Terminated; may be repeated,\n"
    "          for what is there already is not written again (journal only)\n"
    "    --entries M       entries of each agent (10)\n"
    "    --unfinished N    every Nth agent lacks its Terminated (0: none)\n"
    "    --interleave W    agents that a connection writes at once (10)\n"
    "  read    reads one agent page by page, from its first entry, again and again\n"
    "    --agent ID        the agent, or stream\n"
    "    --entries M       entries a pass reads; where there are fewer it is an error\n"
    "    --page L          entries a page (1000)\n"
    "  idle    opens the connections, has a ping answered on each, prints a line,\n"
    "          and holds them until stdin is closed\n"
    "\n"
    "examples:\n"
    "  load --socket S --connections 50 --depth 16 --seconds 3\n"
    "  load --socket R --wire redis --connections 50 --depth 16 --seconds 3\n"
    "  load --socket S --connections 1 --depth 100 --layout cycle\n"
    "  load --socket S --mode read --agent agent-000 --entries 100000 --depth 2\n";

enum wire { WIRE_JOURNAL, WIRE_REDIS };
enum mode { MODE_APPEND, MODE_FILL, MODE_READ, MODE_IDLE };
enum kind { KIND_STARTED, KIND_EVENT, KIND_TERMINATED, KIND_READ, KINDS };

struct options {
    const char *socket, *prefix, *agent;
    enum wire wire;
    enum mode mode;
    bool cycle;
    unsigned connections, depth;
    uint64_t agents, bytes, requests, first, entries, unfinished, interleave, page, stride, digits;
    double seconds, warmup;
};

/* A request's bytes with the places of the digits that differ from one to the next. */
struct template {
    char *bytes;
    size_t length, id_at, agent_at, sequence_at; /* 0: has no such place */
};

struct request {
    enum kind kind;
    uint64_t id, agent, sequence, sent_ns;
};

struct connection {
    int fd;
    bool awaits_room;          /* the kernel's buffer was full: EPOLLOUT is on */
    char *out, *in;
    size_t out_begin, out_end, out_size;
    size_t in_begin, in_end, in_size;
    size_t searched;           /* bytes behind in_begin known to hold no newline */
    struct request *flights;   /* a ring: replies come in request order */
    unsigned oldest, in_flight;
    uint64_t next_id, turn, cursor;
    unsigned index;
    char last_stream_id[64];   /* Redis: where the next page begins */
};

/* Log-linear: 128 buckets an octave, so no value is off by more than 0.8 %. */
struct histogram {
    uint64_t counts[58 * 128];
    uint64_t total, sum, max;
};

static struct options opt = {
    .prefix = "agent", .connections = 1, .depth = 1, .agents = 100, .bytes = 300,
    .entries = 10, .interleave = 10, .page = 1000, .stride = 1, .seconds = 3, .warmup = 0.3,
};
static struct template templates[KINDS];
static int agent_digits; /* their number never depends on how a fill is cut into runs */
static uint64_t *agent_sequences; /* the last one seen of each agent; NULL: not checked */
static struct histogram latencies;
static uint64_t issued, answered, measured, present, errors, passes;
static char first_error[256];
static uint64_t measure_from, measure_to; /* ns; only what is answered in between is reported */
static bool sending = true;

static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

static void *allocate(size_t size)
{
    void *memory = calloc(1, size);
    if (!memory)
        die("out of memory");
    return memory;
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void count_error(const char *what, const char *reply, size_t length)
{
    if (errors++ == 0)
        snprintf(first_error, sizeof first_error, "%s: %.*s", what,
                 (int)(length < 160 ? length : 160), reply);
}

/* ---- latencies ---------------------------------------------------------- */

static void record(struct histogram *h, uint64_t ns)
{
    size_t bucket = ns;
    if (ns >= 128) {
        unsigned shift = 63 - (unsigned)__builtin_clzll(ns) - 7;
        bucket = (shift + 1) * 128 + ((ns >> shift) - 128);
    }
    h->counts[bucket]++;
    h->total++;
    h->sum += ns;
    if (ns > h->max)
        h->max = ns;
}

static double percentile_us(const struct histogram *h, double share)
{
    uint64_t wanted = (uint64_t)(share * (double)h->total), seen = 0;
    for (size_t bucket = 0; bucket < sizeof h->counts / sizeof *h->counts; bucket++) {
        seen += h->counts[bucket];
        if (seen <= wanted)
            continue;
        if (bucket < 128)
            return (double)bucket / 1000;
        unsigned shift = (unsigned)(bucket / 128) - 1;
        uint64_t middle = ((bucket % 128 + 128) << shift) + (1ULL << shift) / 2;
        return (double)(middle < h->max ? middle : h->max) / 1000;
    }
    return (double)h->max / 1000;
}

/* ---- requests ----------------------------------------------------------- */

static void put_digits(char *at, uint64_t value, int digits)
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
    size_t size = strlen(event) + (size_t)agent_bytes + ENVELOPE_BYTES_MAX;
    char *b = t->bytes = allocate(size);
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
static uint64_t page_size(const struct request *r)
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
    snprintf(from, sizeof from, "%s%s", r->sequence ? "(" : "-", r->sequence ? c->last_stream_id : "");
    snprintf(page, sizeof page, "%" PRIu64, page_size(r));
    return (size_t)sprintf(out,
                           "*6\r\n$6\r\nXRANGE\r\n$%zu\r\n%s\r\n$%zu\r\n%s\r\n$1\r\n+\r\n"
                           "$5\r\nCOUNT\r\n$%zu\r\n%s\r\n",
                           strlen(opt.agent), opt.agent, strlen(from), from, strlen(page), page);
}

static size_t render(char *out, const struct connection *c, const struct request *r)
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

/* ---- plans: what a connection asks next; false when it has nothing left -- */

static bool plan_append(struct connection *c, struct request *r)
{
    if (opt.requests && issued >= opt.requests)
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

static bool plan(struct connection *c, struct request *r)
{
    switch (opt.mode) {
    case MODE_APPEND: return plan_append(c, r);
    case MODE_FILL:   return plan_fill(c, r);
    case MODE_READ:   return plan_read(c, r);
    default:          return false;
    }
}

/* ---- replies ------------------------------------------------------------ */

/* The number behind a field's name, or UNKNOWN_SEQUENCE. */
static uint64_t field(const char *line, size_t length, const char *name)
{
    const char *at = memmem(line, length, name, strlen(name));
    return at ? strtoull(at + strlen(name), NULL, 10) : UNKNOWN_SEQUENCE;
}

static bool holds(const char *line, size_t length, const char *text)
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
            present++;
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
static size_t reply_length(struct connection *c)
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

static void take_reply(struct connection *c, size_t length, uint64_t now)
{
    const char *reply = c->in + c->in_begin;
    if (!c->in_flight) {
        count_error("a reply that nobody asked for", reply, length);
        return;
    }
    const struct request *r = &c->flights[c->oldest];
    c->oldest = (c->oldest + 1) % opt.depth;
    c->in_flight--;
    answered++;
    uint64_t entries = opt.wire == WIRE_REDIS ? check_stream(reply, length, r)
                       : r->kind == KIND_READ ? check_page(c, reply, length, r)
                                              : check_append(reply, length, r);
    if (now >= measure_from && now < measure_to) {
        measured += entries;
        record(&latencies, now - r->sent_ns);
    }
}

/* ---- connections -------------------------------------------------------- */

static int connect_socket(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(opt.socket) >= sizeof address.sun_path)
        die("the socket's path is longer than %zu bytes", sizeof address.sun_path - 1);
    strcpy(address.sun_path, opt.socket);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        die("cannot connect to %s: %s", opt.socket, strerror(errno));
    return fd;
}

static void watch(int epoll, struct connection *c, int operation)
{
    struct epoll_event event = {.events = EPOLLIN | (c->awaits_room ? EPOLLOUT : 0),
                                .data.ptr = c};
    if (epoll_ctl(epoll, operation, c->fd, &event) < 0)
        die("epoll_ctl: %s", strerror(errno));
}

static void open_connection(struct connection *c, unsigned index, int epoll)
{
    size_t request_bytes_max = opt.bytes + strlen(opt.prefix) + ENVELOPE_BYTES_MAX;
    c->index = index;
    c->fd = connect_socket();
    if (fcntl(c->fd, F_SETFL, O_NONBLOCK) < 0) /* only now: a full backlog is waited for */
        die("fcntl: %s", strerror(errno));
    c->next_id = ID_FIRST;
    c->flights = allocate(opt.depth * sizeof *c->flights);
    c->out_size = opt.depth * request_bytes_max; /* never more than depth are unsent */
    c->out = allocate(c->out_size);
    c->in_size = opt.depth < 32 ? 4096 : 16384;
    c->in = allocate(c->in_size);
    watch(epoll, c, EPOLL_CTL_ADD);
}

static void lose_connection(struct connection *c, const char *why)
{
    if (c->in_flight || sending)
        count_error("a connection was lost", why, strlen(why));
    close(c->fd);
    c->fd = -1;
}

/* Ask until the connection's depth is reached or its plan is at its end. */
static void ask(struct connection *c, uint64_t now)
{
    while (sending && c->in_flight < opt.depth) {
        struct request r = {.id = c->next_id, .sent_ns = now};
        if (!plan(c, &r))
            return;
        c->next_id++;
        issued++;
        c->flights[(c->oldest + c->in_flight++) % opt.depth] = r;
        if (c->out_begin == c->out_end)
            c->out_begin = c->out_end = 0;
        if (c->out_size - c->out_end < ENVELOPE_BYTES_MAX + opt.bytes) {
            memmove(c->out, c->out + c->out_begin, c->out_end - c->out_begin);
            c->out_end -= c->out_begin;
            c->out_begin = 0;
        }
        c->out_end += render(c->out + c->out_end, c, &r);
    }
}

static void flush(struct connection *c, int epoll)
{
    while (c->out_begin < c->out_end) {
        ssize_t n = send(c->fd, c->out + c->out_begin, c->out_end - c->out_begin, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            lose_connection(c, strerror(errno));
            return;
        }
        if (n < 0)
            break;
        c->out_begin += (size_t)n;
    }
    bool awaits_room = c->out_begin < c->out_end;
    if (awaits_room != c->awaits_room) {
        c->awaits_room = awaits_room;
        watch(epoll, c, EPOLL_CTL_MOD);
    }
}

/* Make room for one more read.  Answers to appends never need more than the first kilobytes. */
static void make_room(struct connection *c)
{
    if (c->in_begin == c->in_end)
        c->in_begin = c->in_end = 0;
    if (c->in_begin && c->in_size - c->in_end < c->in_size / 2) {
        memmove(c->in, c->in + c->in_begin, c->in_end - c->in_begin);
        c->in_end -= c->in_begin;
        c->in_begin = 0;
    }
    if (c->in_end == c->in_size) {
        c->in_size = c->in_size < READ_BYTES ? READ_BYTES : c->in_size * 2;
        if (!(c->in = realloc(c->in, c->in_size)))
            die("out of memory");
    }
}

static void receive(struct connection *c, int epoll)
{
    make_room(c);
    ssize_t n = recv(c->fd, c->in + c->in_end, c->in_size - c->in_end, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        lose_connection(c, n ? strerror(errno) : "closed by the server");
        return;
    }
    c->in_end += (size_t)n;
    uint64_t now = now_ns();
    for (size_t length; c->in_begin < c->in_end && (length = reply_length(c));) {
        take_reply(c, length, now);
        c->in_begin += length;
    }
    ask(c, now);
    flush(c, epoll);
}

/* ---- the run ------------------------------------------------------------ */

static unsigned count_in_flight(const struct connection *connections, bool with_lost)
{
    unsigned total = 0;
    for (unsigned i = 0; i < opt.connections; i++)
        total += with_lost || connections[i].fd >= 0 ? connections[i].in_flight : 0;
    return total;
}

/* Run until the plans or the time are at their end and everything is answered. */
static uint64_t run(struct connection *connections, int epoll)
{
    struct epoll_event events[256];
    uint64_t begin = now_ns(), last_answer = begin, end;
    bool by_time = !opt.requests && opt.mode != MODE_FILL;
    measure_from = begin + (by_time ? (uint64_t)(opt.warmup * 1e9) : 0);
    measure_to = by_time ? measure_from + (uint64_t)(opt.seconds * 1e9) : UINT64_MAX;
    for (unsigned i = 0; i < opt.connections; i++) {
        ask(&connections[i], now_ns());
        flush(&connections[i], epoll);
    }
    for (;;) {
        int n = epoll_wait(epoll, events, sizeof events / sizeof *events, 50);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->fd >= 0 && events[i].events & EPOLLOUT)
                flush(c, epoll);
            if (c->fd >= 0 && events[i].events & ~(uint32_t)EPOLLOUT)
                receive(c, epoll);
        }
        end = now_ns();
        if (n > 0)
            last_answer = end;
        if (end >= measure_to)
            sending = false;
        if ((!sending || !by_time || n <= 0) && !count_in_flight(connections, false))
            break;
        if (end - last_answer > DRAIN_NS_MAX)
            break;
    }
    return by_time ? measure_to - measure_from : end - begin;
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void print_json_string(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            printf("\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            printf("\\u%04x", *text);
        else
            putchar(*text);
    }
    putchar('"');
}

static void report(uint64_t took_ns, unsigned unanswered)
{
    static const char *const wires[] = {"journal", "redis"};
    static const char *const modes[] = {"append", "fill", "read", "idle"};
    double seconds = (double)took_ns / 1e9;
    const struct histogram *h = &latencies;
    printf("{\"wire\":\"%s\",\"mode\":\"%s\",\"connections\":%u,\"depth\":%u,\"agents\":%" PRIu64
           ",\"event_bytes\":%" PRIu64 ",\"seconds\":%.3f,\"entries\":%" PRIu64
           ",\"entries_per_second\":%.0f",
           wires[opt.wire], modes[opt.mode], opt.connections, opt.depth, opt.agents, opt.bytes,
           seconds, measured, (double)measured / seconds);
    printf(",\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f,\"mean_us\":%.1f",
           percentile_us(h, 0.5), percentile_us(h, 0.99), percentile_us(h, 0.999),
           (double)h->max / 1000, h->total ? (double)h->sum / (double)h->total / 1000 : 0);
    printf(",\"answered\":%" PRIu64 ",\"present\":%" PRIu64 ",\"unanswered\":%u,\"errors\":%" PRIu64
           ",\"client_cpu_seconds\":%.2f,\"first_error\":",
           answered, present, unanswered, errors, cpu_seconds());
    if (errors)
        print_json_string(first_error);
    else
        fputs("null", stdout);
    puts("}");
}

static int drive(void)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct connection *connections = allocate(opt.connections * sizeof *connections);
    for (unsigned i = 0; i < opt.connections; i++)
        open_connection(&connections[i], i, epoll);
    uint64_t took_ns = run(connections, epoll);
    unsigned unanswered = count_in_flight(connections, true);
    report(took_ns, unanswered);
    return errors || unanswered ? 1 : 0;
}

/* Open connections, have a ping answered on each so that it is known to be served, and hold. */
static int hold_idle(void)
{
    static const char *const pings[] = {"{\"op\":\"ping\"}\n", "*1\r\n$4\r\nPING\r\n"};
    char reply[512];
    uint64_t begin = now_ns();
    for (unsigned i = 0; i < opt.connections; i++) {
        int fd = connect_socket();
        const char *ping = pings[opt.wire];
        if (send(fd, ping, strlen(ping), MSG_NOSIGNAL) != (ssize_t)strlen(ping))
            die("connection %u: %s", i, strerror(errno));
        ssize_t n = recv(fd, reply, sizeof reply, 0);
        if (n <= 0 || !(holds(reply, (size_t)n, "\"ok\":true") || reply[0] == '+'))
            die("connection %u was not served: %.*s", i, n > 0 ? (int)n : 0, reply);
    }
    printf("{\"mode\":\"idle\",\"open\":%u,\"seconds\":%.3f}\n", opt.connections,
           (double)(now_ns() - begin) / 1e9);
    fflush(stdout);
    while (read(STDIN_FILENO, reply, sizeof reply) > 0)
        ;
    return 0;
}

/* ---- options ------------------------------------------------------------ */

static uint64_t parse_number(const char *text, const char *name, uint64_t least)
{
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (errno || *end || end == text || *text == '-' || value < least)
        die("--%s must be a whole number of at least %" PRIu64, name, least);
    return value;
}

static double parse_seconds(const char *text, const char *name)
{
    char *end;
    double value = strtod(text, &end);
    if (*end || end == text || !(value >= 0 && value < 1e6))
        die("--%s must be a number of seconds", name);
    return value;
}

static int parse_choice(const char *text, const char *name, const char *const *choices)
{
    for (int i = 0; choices[i]; i++)
        if (!strcmp(text, choices[i]))
            return i;
    die("--%s cannot be '%s'; see --help", name, text);
    return -1;
}

static void parse_option(int option, const char *name, const char *text)
{
    static const char *const wires[] = {"journal", "redis", NULL};
    static const char *const modes[] = {"append", "fill", "read", "idle", NULL};
    static const char *const layouts[] = {"share", "cycle", NULL};
    switch (option) {
    case 's': opt.socket = text; break;
    case 'w': opt.wire = (enum wire)parse_choice(text, name, wires); break;
    case 'm': opt.mode = (enum mode)parse_choice(text, name, modes); break;
    case 'l': opt.cycle = parse_choice(text, name, layouts) == 1; break;
    case 'c': opt.connections = (unsigned)parse_number(text, name, 1); break;
    case 'd': opt.depth = (unsigned)parse_number(text, name, 1); break;
    case 'k': opt.agents = parse_number(text, name, 1); break;
    case 'b': opt.bytes = parse_number(text, name, 1); break;
    case 'n': opt.requests = parse_number(text, name, 1); break;
    case 'F': opt.first = parse_number(text, name, 0); break;
    case 'e': opt.entries = parse_number(text, name, 1); break;
    case 'u': opt.unfinished = parse_number(text, name, 0); break;
    case 'i': opt.interleave = parse_number(text, name, 1); break;
    case 'L': opt.page = parse_number(text, name, 1); break;
    case 'S': opt.stride = parse_number(text, name, 1); break;
    case 'D': opt.digits = parse_number(text, name, 1); break;
    case 't': opt.seconds = parse_seconds(text, name); break;
    case 'W': opt.warmup = parse_seconds(text, name); break;
    case 'p': opt.prefix = text; break;
    case 'a': opt.agent = text; break;
    }
}

static void parse_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"socket", 1, 0, 's'},     {"wire", 1, 0, 'w'},    {"mode", 1, 0, 'm'},
        {"layout", 1, 0, 'l'},     {"depth", 1, 0, 'd'},   {"connections", 1, 0, 'c'},
        {"agents", 1, 0, 'k'},     {"bytes", 1, 0, 'b'},   {"requests", 1, 0, 'n'},
        {"first", 1, 0, 'F'},      {"entries", 1, 0, 'e'}, {"unfinished", 1, 0, 'u'},
        {"interleave", 1, 0, 'i'}, {"page", 1, 0, 'L'},    {"seconds", 1, 0, 't'},
        {"warmup", 1, 0, 'W'},     {"prefix", 1, 0, 'p'},  {"agent", 1, 0, 'a'},
        {"stride", 1, 0, 'S'},     {"digits", 1, 0, 'D'},  {"help", 0, 0, 'h'},
        {0, 0, 0, 0},
    };
    int option, index = 0;
    while ((option = getopt_long(argc, argv, "h", known, &index)) != -1) {
        if (option == 'h') {
            fputs(USAGE, stdout);
            exit(0);
        }
        if (option == '?')
            exit(2);
        parse_option(option, known[index].name, optarg);
    }
    if (!opt.socket || optind < argc) {
        fputs(USAGE, stderr);
        exit(2);
    }
    if (opt.mode == MODE_READ && !opt.agent)
        die("--mode read needs --agent and --entries");
    if (opt.mode == MODE_READ && opt.wire == WIRE_REDIS && opt.depth > 1)
        die("Redis' pages begin behind the last one's end: --depth must be 1");
    if (opt.mode == MODE_FILL && opt.wire == WIRE_REDIS)
        die("--mode fill speaks the journal's wire only");
    if (opt.mode == MODE_FILL && opt.entries < 2)
        die("--mode fill writes at least two --entries an agent");
}

static void prepare(void)
{
    char number[24];
    int needed = snprintf(number, sizeof number, "%" PRIu64,
                          opt.first + (opt.agents - 1) * opt.stride);
    agent_digits = opt.digits ? (int)opt.digits : opt.mode == MODE_FILL ? 7 : 3;
    if (opt.digits > 20 || needed > agent_digits)
        die("agent %s does not fit --digits %d", number, agent_digits);
    for (int kind = 0; kind < KIND_READ; kind++)
        build_template((enum kind)kind);
    /* Where two connections write one agent, neither knows which sequence comes next. */
    if (opt.mode == MODE_APPEND && opt.agents >= opt.connections &&
        (!opt.cycle || opt.connections == 1)) {
        agent_sequences = allocate(opt.agents * sizeof *agent_sequences);
        memset(agent_sequences, 0xff, opt.agents * sizeof *agent_sequences);
    }
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    prepare();
    return opt.mode == MODE_IDLE ? hold_idle() : drive();
}
