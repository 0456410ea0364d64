/* Journals an agent's start, a step and its end, and reads them back.
 *
 *   cc -o append append.c && ./append [agent-id]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

/* Writes where the daemon listens: what the environment says, else the user's own, else the host's. */
static void find_socket(char *path, size_t size)
{
    const char *named = getenv("AGENT_JOURNAL_SOCKET"), *runtime = getenv("XDG_RUNTIME_DIR");
    struct stat directory, found;
    int length;

    if (named && *named) {
        length = snprintf(path, size, "%s", named);
    } else {
        char own[PATH_MAX];
        if (runtime && *runtime)
            snprintf(own, sizeof own, "%s/agent-journal", runtime);
        else
            snprintf(own, sizeof own, "/tmp/agent-journal-%u", (unsigned)getuid());
        length = snprintf(path, size, "%s/journal.sock", own);
        /* In /tmp anybody may have made the directory. */
        if (stat(path, &found) || stat(own, &directory) || directory.st_uid != getuid())
            length = snprintf(path, size, "/run/agent-journal/journal.sock");
    }
    if (length >= (int)size)
        fail(path, "the path is too long for a socket");
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (connection < 0 || connect(connection, (struct sockaddr *)&address, sizeof address)) {
        fprintf(stderr, "%s: %s; is agent-journald running?\n", path, strerror(errno));
        exit(1);
    }
    return connection;
}

/* Prints the reply to one request; ends the program when the answer is not yes. */
static void expect_yes(FILE *replies)
{
    static char *line;
    static size_t size;

    if (getline(&line, &size, replies) < 0)
        fail("no reply", "the connection was closed");
    if (!strstr(line, "\"ok\":true"))
        fail("refused", line);
    fputs(line, stdout);
}

int main(int argc, char **argv)
{
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)], agent[256];
    int connection, sent;
    FILE *replies;

    snprintf(agent, sizeof agent, "c-%d", (int)getpid());
    if (argc > 1)
        snprintf(agent, sizeof agent, "%s", argv[1]);
    signal(SIGPIPE, SIG_IGN); /* a daemon that goes away is an error to report, not our death */
    find_socket(path, sizeof path);
    connection = connect_to(path);
    replies = fdopen(connection, "r");

    /* All at once: replies come in the order of the requests, each append's when it is durable.
     * With a key, a repeat is recognised: the entry is recorded once, however often it is sent. */
    sent = dprintf(connection,
        "{\"op\":\"append\",\"agent_id\":\"%1$s\",\"event\":{\"Started\":{\"goal\":\"greet\"}},\"key\":\"start\"}\n"
        "{\"op\":\"append\",\"agent_id\":\"%1$s\",\"iteration\":1,"
        "\"event\":{\"StepCompleted\":{\"result\":\"Hello!\"}},\"key\":\"greet\"}\n"
        "{\"op\":\"append\",\"agent_id\":\"%1$s\",\"iteration\":1,"
        "\"event\":{\"Terminated\":{\"reason\":\"Completed\"}},\"key\":\"end\"}\n"
        "{\"op\":\"read\",\"agent_id\":\"%1$s\"}\n", agent);
    if (sent < 0)
        fail(path, strerror(errno));
    for (int request = 0; request < 4; request++)
        expect_yes(replies);
    fclose(replies);
    return 0;
}
