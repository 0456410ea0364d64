/* What the parts of the load generator share; main.c tells what it is for. */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define NS_PER_S 1000000000ULL
#define ID_FIRST 100000000ULL /* ids keep nine digits, so a request's length never changes */
#define ID_DIGITS 9
#define NAME_BYTES_MAX 128
#define ENVELOPE_BYTES_MAX 512 /* of a request, around its event: two names and the fixed parts */
#define UNKNOWN_SEQUENCE UINT64_MAX

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

/* An agent is known by its place among those that are written to, 0 to opt.agents - 1. */
struct request {
    enum kind kind;
    uint64_t id, agent, sequence, sent_ns;
};

struct connection {
    int fd; /* -1: lost */
    unsigned index;
    bool awaits_room; /* the kernel's buffer was full: EPOLLOUT is on */
    char *out, *in;
    size_t out_begin, out_end, out_size;
    size_t in_begin, in_end, in_size;
    size_t searched;         /* bytes behind in_begin known to hold no newline */
    struct request *flights; /* a ring: replies come in request order */
    unsigned oldest, in_flight;
    uint64_t next_id, turn, cursor;
    char last_stream_id[64]; /* Redis: where the next page begins */
};

/* What has been counted so far.  Only what falls into the window is reported as a figure. */
struct tally {
    uint64_t issued, answered, measured, present, errors;
    uint64_t window_from_ns, window_to_ns;
    char first_error[256];
};

extern struct options opt;
extern struct tally tally;

/* main.c */
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void *allocate(size_t size);
uint64_t now_ns(void);

/* requests.c: what a connection asks next, and its bytes */
void prepare_requests(void);
bool plan(struct connection *c, struct request *r); /* false: nothing left to ask */
size_t render(char *out, const struct connection *c, const struct request *r);
uint64_t page_size(const struct request *r);
void put_digits(char *at, uint64_t value, int digits);

/* replies.c: what came back, and whether it is right */
void prepare_replies(void);
size_t reply_length(struct connection *c); /* of the first whole one received; 0: none yet */
void take_reply(struct connection *c, size_t length, uint64_t now);
void count_error(const char *what, const char *reply, size_t length);
bool holds(const char *text, size_t length, const char *part);

/* drive.c: connections and the loop over them */
int drive(void);     /* both return the exit status */
int hold_idle(void);

/* report.c: latencies and the line at the end */
void record_latency(uint64_t ns);
void report(uint64_t took_ns, unsigned unanswered);

#endif
