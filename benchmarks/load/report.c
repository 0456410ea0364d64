/* Latencies, and the line of JSON that ends a run. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>

#include "load.h"

#define BUCKETS (58 * 128)

/* Log-linear: 128 buckets an octave, so no value is off by more than 0.8 %. */
static struct {
    uint64_t counts[BUCKETS];
    uint64_t total, sum, max;
} latencies;

void record_latency(uint64_t ns)
{
    size_t bucket = ns;
    if (ns >= 128) {
        unsigned shift = 63 - (unsigned)__builtin_clzll(ns) - 7;
        bucket = (shift + 1) * 128 + ((ns >> shift) - 128);
    }
    latencies.counts[bucket]++;
    latencies.total++;
    latencies.sum += ns;
    if (ns > latencies.max)
        latencies.max = ns;
}

static double percentile_us(double share)
{
    uint64_t wanted = (uint64_t)(share * (double)latencies.total), seen = 0;
    for (size_t bucket = 0; bucket < BUCKETS; bucket++) {
        seen += latencies.counts[bucket];
        if (seen <= wanted)
            continue;
        if (bucket < 128)
            return (double)bucket / 1000;
        unsigned shift = (unsigned)(bucket / 128) - 1;
        uint64_t middle = ((bucket % 128 + 128) << shift) + (1ULL << shift) / 2;
        return (double)(middle < latencies.max ? middle : latencies.max) / 1000;
    }
    return (double)latencies.max / 1000;
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* What a server has answered may be anything, and the line must stay JSON. */
static void print_json_string(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            printf("\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            printf("\\u%04x", *text);
        else if ((unsigned char)*text > 0x7e) /* may be the first half of a character */
            putchar('?');
        else
            putchar(*text);
    }
    putchar('"');
}

void report(uint64_t took_ns, unsigned unanswered)
{
    static const char *const wires[] = {"journal", "redis"};
    static const char *const modes[] = {"append", "fill", "read", "idle"};
    double seconds = (double)took_ns / 1e9;
    double mean_us = latencies.total ? (double)latencies.sum / (double)latencies.total / 1000 : 0;
    printf("{\"wire\":\"%s\",\"mode\":\"%s\",\"connections\":%u,\"depth\":%u,\"agents\":%" PRIu64
           ",\"event_bytes\":%" PRIu64 ",\"seconds\":%.3f,\"entries\":%" PRIu64
           ",\"entries_per_second\":%.0f",
           wires[opt.wire], modes[opt.mode], opt.connections, opt.depth, opt.agents, opt.bytes,
           seconds, tally.measured, (double)tally.measured / seconds);
    printf(",\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f,\"mean_us\":%.1f",
           percentile_us(0.5), percentile_us(0.99), percentile_us(0.999),
           (double)latencies.max / 1000, mean_us);
    printf(",\"answered\":%" PRIu64 ",\"present\":%" PRIu64 ",\"unanswered\":%u,\"errors\":%" PRIu64
           ",\"client_cpu_seconds\":%.2f,\"first_error\":",
           tally.answered, tally.present, unanswered, tally.errors, cpu_seconds());
    if (tally.errors)
        print_json_string(tally.first_error);
    else
        fputs("null", stdout);
    puts("}");
}
