/*
 * Connections and the loop over them: keep each connection's requests in flight
 * until the time or the work is over, then wait for the answers still due.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "load.h"

#define READ_BYTES (256 * 1024)      /* one recv takes what a busy server has written meanwhile */
#define DRAIN_NS_MAX (30 * NS_PER_S) /* how long answers may be late once sending has stopped */

static bool sending = true;

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
    size_t request_bytes_max = opt.bytes + ENVELOPE_BYTES_MAX;
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
        tally.issued++;
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
    tally.window_from_ns = begin + (by_time ? (uint64_t)(opt.warmup * 1e9) : 0);
    tally.window_to_ns =
        by_time ? tally.window_from_ns + (uint64_t)(opt.seconds * 1e9) : UINT64_MAX;
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
        if (end >= tally.window_to_ns)
            sending = false;
        if ((!sending || !by_time || n <= 0) && !count_in_flight(connections, false))
            break;
        if (end - last_answer > DRAIN_NS_MAX)
            break;
    }
    return by_time ? tally.window_to_ns - tally.window_from_ns : end - begin;
}

int drive(void)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct connection *connections = allocate(opt.connections * sizeof *connections);
    for (unsigned i = 0; i < opt.connections; i++)
        open_connection(&connections[i], i, epoll);
    uint64_t took_ns = run(connections, epoll);
    unsigned unanswered = count_in_flight(connections, true);
    report(took_ns, unanswered);
    return tally.errors || unanswered ? 1 : 0;
}

/* Open connections, have a ping answered on each so that it is known to be served, and hold. */
int hold_idle(void)
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
