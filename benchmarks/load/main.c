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
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "load.h"

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
    "  --digits W        digits of the agent number (3, or as many as it takes; fill: 7)\n"
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

struct options opt = {
    .prefix = "agent", .connections = 1, .depth = 1, .agents = 100, .bytes = 300,
    .entries = 10, .interleave = 10, .page = 1000, .stride = 1, .seconds = 3, .warmup = 0.3,
};
struct tally tally;

void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

void *allocate(size_t size)
{
    void *memory = calloc(1, size);
    if (!memory)
        die("out of memory");
    return memory;
}

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

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
    if (strlen(opt.prefix) > NAME_BYTES_MAX || (opt.agent && strlen(opt.agent) > NAME_BYTES_MAX))
        die("agent ids have at most %d bytes", NAME_BYTES_MAX);
    if (opt.mode == MODE_READ && !opt.agent)
        die("--mode read needs --agent and --entries");
    if (opt.mode == MODE_READ && opt.wire == WIRE_REDIS && opt.depth > 1)
        die("Redis' pages begin behind the last one's end: --depth must be 1");
    if (opt.mode == MODE_FILL && opt.wire == WIRE_REDIS)
        die("--mode fill speaks the journal's wire only");
    if (opt.mode == MODE_FILL && opt.entries < 2)
        die("--mode fill writes at least two --entries an agent");
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    prepare_requests();
    prepare_replies();
    return opt.mode == MODE_IDLE ? hold_idle() : drive();
}
