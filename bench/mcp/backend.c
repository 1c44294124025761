/* The MCP server behind every peer of the MCP scenarios: one thread, epoll, correct in both eras, never the bottleneck.
 *
 *     backend PORT
 *
 * POST /mcp/<tools>/<delay>/<streams>: `tools` entries in tools/list (`echo` first), `initialize` answered after `delay` ms,
 * GET answered with an event stream that stays open and silent when `streams` is 1, else with 405. GET / answers "ok".
 *
 * Knows initialize, server/discover, ping, tools/list and tools/call (any name); other methods get -32601. Ids are echoed octet
 * for octet; notifications get 202. Session ids are handed out and not checked: this is a load program. Requests need a
 * Content-Length; messages are at most 1 MiB. Listens on 127.0.0.1 only.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_MESSAGE = 1 << 20, MAX_FD = 1 << 17, MAX_LISTS = 16, MAX_DELAYED = 65536, EVENTS = 256, FIRST_BUFFER = 2048 };

struct conn {
    char *in, *out;
    size_t got, room, out_len, out_sent;
    uint32_t generation;
};

struct span {
    const char *at;
    size_t len;
};

struct list {
    long tools;
    char *json; /* a JSON array */
    size_t len;
};

struct delayed {
    int64_t due_ns;
    int fd;
    uint32_t generation;
    char *text;
    size_t len;
};

static struct conn conns[MAX_FD];
static struct list lists[MAX_LISTS];
static struct delayed waiting[MAX_DELAYED];
static int n_waiting, poller;
static uint64_t sessions;

static const char YES[] = "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy";

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void *need(void *p) {
    if (!p) die("memory");
    return p;
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void drop(int fd) {
    struct conn *c = &conns[fd];
    free(c->in);
    free(c->out);
    uint32_t generation = c->generation + 1;
    memset(c, 0, sizeof *c);
    c->generation = generation;
    close(fd);
}

/* Write now what the socket takes, keep the rest. */
static void put(int fd, const char *text, size_t len) {
    struct conn *c = &conns[fd];
    if (!c->out_len) {
        ssize_t done = write(fd, text, len);
        if (done < 0 && errno != EAGAIN) return; /* epoll reports the end of the connection */
        if (done > 0) text += done, len -= (size_t)done;
        if (!len) return;
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_MOD, fd, &e);
    }
    c->out = need(realloc(c->out, c->out_len + len));
    memcpy(c->out + c->out_len, text, len);
    c->out_len += len;
}

static void flush(int fd) {
    struct conn *c = &conns[fd];
    while (c->out_sent < c->out_len) {
        ssize_t done = write(fd, c->out + c->out_sent, c->out_len - c->out_sent);
        if (done < 0) return;
        c->out_sent += (size_t)done;
    }
    free(c->out);
    c->out = NULL;
    c->out_len = c->out_sent = 0;
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_MOD, fd, &e);
}

static const char *past_string(const char *p, const char *end) { /* p at the opening quote */
    for (p++; p < end && *p != '"'; p++)
        if (*p == '\\') p++;
    return p < end ? p + 1 : end;
}

static const char *past_value(const char *p, const char *end) {
    if (p < end && *p == '"') return past_string(p, end);
    int depth = 0;
    while (p < end) {
        if (*p == '"') {
            p = past_string(p, end);
            continue;
        }
        if (*p == '{' || *p == '[') depth++;
        if (*p == '}' || *p == ']') {
            if (!depth) return p;
            if (!--depth) return p + 1;
        } else if (*p == ',' && !depth) {
            return p;
        }
        p++;
    }
    return end;
}

/* A member of an object by name, as raw JSON; empty if absent. */
static struct span member(struct span object, const char *name) {
    const char *p = object.at, *end = object.at + object.len;
    size_t n = strlen(name);
    while (p < end && *p != '{') p++;
    for (p++; p < end;) {
        while (p < end && (*p == ' ' || *p == ',' || *p == '\n' || *p == '\r' || *p == '\t')) p++;
        if (p >= end || *p != '"') break;
        const char *key = p + 1, *after = past_string(p, end);
        size_t key_len = (size_t)(after - key) - 1;
        for (p = after; p < end && (*p == ' ' || *p == ':'); p++) {}
        const char *value = p;
        p = past_value(p, end);
        if (key_len == n && !memcmp(key, name, n)) {
            size_t len = (size_t)(p - value);
            while (len && value[len - 1] <= ' ') len--;
            return (struct span){value, len};
        }
    }
    return (struct span){NULL, 0};
}

static bool is(struct span s, const char *text) { return s.at && s.len == strlen(text) && !memcmp(s.at, text, s.len); }

static struct list *list_of(long tools) {
    for (int i = 0; i < MAX_LISTS; i++) {
        struct list *l = &lists[i];
        if (l->json && l->tools == tools) return l;
        if (l->json) continue;
        size_t room = (size_t)tools * 400 + 512;
        l->json = need(malloc(room));
        l->tools = tools;
        l->len = (size_t)sprintf(l->json, "[");
        for (long n = 0; n < tools; n++) {
            char name[32] = "echo";
            if (n) sprintf(name, "tool-%05ld", n);
            l->len += (size_t)sprintf(
                l->json + l->len,
                "%s{\"name\":\"%s\",\"title\":\"Tool %ld\",\"description\":\"Answers its text; number %ld of the tools this server has.\","
                "\"inputSchema\":{\"type\":\"object\",\"properties\":{\"text\":{\"type\":\"string\",\"description\":\"What to answer\"}},"
                "\"required\":[\"text\"]},\"annotations\":{\"readOnlyHint\":true}}",
                n ? "," : "", name, n, n);
        }
        l->len += (size_t)sprintf(l->json + l->len, "]");
        return l;
    }
    return &lists[0];
}

/* An answer: without `id` it has no body, else `rest` follows the id, up to the closing brace. */
static void respond(int fd, int status, const char *lines, struct span id, const char *rest, size_t len, int64_t due_ns) {
    static const char start[] = "{\"jsonrpc\":\"2.0\",\"id\":";
    size_t size = id.at ? sizeof start - 1 + id.len + len + 1 : 0;
    char small[4096], *text = size + 512 > sizeof small ? need(malloc(size + 512)) : small;
    size_t n = (size_t)sprintf(
        text, "HTTP/1.1 %d %s\r\n%s%sContent-Length: %zu\r\n\r\n", status, status == 200 ? "OK" : status == 202 ? "Accepted" : "No",
        id.at ? "Content-Type: application/json\r\n" : "", lines, size);
    if (id.at) {
        memcpy(text + n, start, sizeof start - 1), n += sizeof start - 1;
        memcpy(text + n, id.at, id.len), n += id.len;
        memcpy(text + n, rest, len), n += len;
        text[n++] = '}';
    }
    if (due_ns && n_waiting < MAX_DELAYED) {
        char *copy = need(malloc(n));
        memcpy(copy, text, n);
        waiting[n_waiting++] = (struct delayed){due_ns, fd, conns[fd].generation, copy, n};
    } else {
        put(fd, text, n);
    }
    if (text != small) free(text);
}

static void answer(int fd, struct span head, struct span body) {
    const struct span none = {NULL, 0};
    long tools = 1, delay = 0, streams = 0;
    const char *path = memchr(head.at, ' ', head.len);
    if (path) sscanf(path, " /mcp/%ld/%ld/%ld", &tools, &delay, &streams);
    if (head.at[0] == 'G') {
        static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok";
        static const char stream[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                                     "Transfer-Encoding: chunked\r\n\r\n8\r\n: open\n\n\r\n";
        if (path && path[2] == ' ')
            put(fd, ok, sizeof ok - 1);
        else if (streams)
            put(fd, stream, sizeof stream - 1);
        else
            respond(fd, 405, "Allow: POST\r\n", none, "", 0, 0);
        return;
    }
    if (head.at[0] != 'P') {
        respond(fd, 200, "", none, "", 0, 0);
        return;
    }
    struct span id = member(body, "id"), method = member(body, "method");
    bool modern = memmem(head.at, head.len, "2026-07-28", 10) != NULL;
    char text[1024];
    size_t n;
    if (!id.at) {
        respond(fd, 202, "", none, "", 0, 0);
    } else if (is(method, "\"tools/call\"")) {
        int pad = 180 - 91 - (int)id.len - (modern ? 24 : 0);
        n = (size_t)sprintf(text, ",\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"%.*s\"}],\"isError\":false%s}", pad > 0 ? pad : 0, YES,
                            modern ? ",\"resultType\":\"complete\"" : "");
        respond(fd, 200, "", id, text, n, 0);
    } else if (is(method, "\"initialize\"")) {
        struct span version = member(member(body, "params"), "protocolVersion");
        char line[64];
        sprintf(line, "Mcp-Session-Id: bench-%016llx\r\n", (unsigned long long)++sessions);
        n = (size_t)snprintf(text, sizeof text,
                             ",\"result\":{\"protocolVersion\":%.*s,\"capabilities\":{\"tools\":{\"listChanged\":true}},"
                             "\"serverInfo\":{\"name\":\"bench\",\"version\":\"1\"}}",
                             version.len < 32 ? (int)version.len : 0, version.at ? version.at : "");
        respond(fd, 200, line, id, text, n, delay ? now_ns() + delay * 1000000 : 0);
    } else if (is(method, "\"server/discover\"")) {
        static const char found[] = ",\"result\":{\"resultType\":\"complete\",\"supportedVersions\":[\"2026-07-28\"],\"capabilities\":{\"tools\":{}},"
                                    "\"ttlMs\":3600000,\"cacheScope\":\"public\",\"serverInfo\":{\"name\":\"bench\",\"version\":\"1\"}}";
        respond(fd, 200, "", id, found, sizeof found - 1, 0);
    } else if (is(method, "\"tools/list\"")) {
        struct list *l = list_of(tools);
        char *result = need(malloc(l->len + 128));
        n = (size_t)sprintf(result, ",\"result\":{%s\"tools\":", modern ? "\"resultType\":\"complete\",\"ttlMs\":60000,\"cacheScope\":\"public\"," : "");
        memcpy(result + n, l->json, l->len);
        n += l->len;
        result[n++] = '}';
        respond(fd, 200, "", id, result, n, 0);
        free(result);
    } else if (is(method, "\"ping\"")) {
        respond(fd, 200, "", id, ",\"result\":{}", 12, 0);
    } else {
        static const char unknown[] = ",\"error\":{\"code\":-32601,\"message\":\"Method not found\"}";
        respond(fd, 200, "", id, unknown, sizeof unknown - 1, 0);
    }
}

static size_t content_length(struct span head) {
    const char *p = head.at, *end = head.at + head.len;
    while ((p = memchr(p, '\n', (size_t)(end - p)))) {
        p++;
        if (end - p > 15 && !strncasecmp(p, "content-length:", 15)) return strtoul(p + 15, NULL, 10);
    }
    return 0;
}

/* Read what is there and answer every complete request. False when the connection is over. */
static bool serve(int fd) {
    struct conn *c = &conns[fd];
    if (c->room - c->got < 1024) {
        c->room = c->room ? c->room * 2 : FIRST_BUFFER;
        if (c->room > 4 * MAX_MESSAGE) return false;
        c->in = need(realloc(c->in, c->room));
    }
    ssize_t got = read(fd, c->in + c->got, c->room - c->got);
    if (got <= 0) return got < 0 && errno == EAGAIN;
    c->got += (size_t)got;
    size_t at = 0;
    for (;;) {
        const char *end = memmem(c->in + at, c->got - at, "\r\n\r\n", 4);
        if (!end) break;
        struct span head = {c->in + at, (size_t)(end - c->in) - at + 2};
        size_t length = content_length(head), begin = at + head.len + 2;
        if (length > MAX_MESSAGE) return false;
        if (c->got - begin < length) break;
        answer(fd, head, (struct span){c->in + begin, length});
        at = begin + length;
    }
    memmove(c->in, c->in + at, c->got - at);
    c->got -= at;
    return true;
}

/* Send what is due; milliseconds until the next one, -1 for never. */
static int send_due(void) {
    int64_t now = n_waiting ? now_ns() : 0, next = INT64_MAX;
    for (int i = 0; i < n_waiting;) {
        struct delayed *d = &waiting[i];
        if (d->due_ns > now) {
            if (d->due_ns < next) next = d->due_ns;
            i++;
            continue;
        }
        if (conns[d->fd].generation == d->generation) put(d->fd, d->text, d->len);
        free(d->text);
        *d = waiting[--n_waiting];
    }
    return next == INT64_MAX ? -1 : (int)((next - now + 999999) / 1000000);
}

static int listener(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0) die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096)) die("listen");
    return fd;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: backend PORT\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN); /* clients leave in the middle of a list */
    int entry = listener(atoi(argv[1])), one = 1;
    poller = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = entry}, events[EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, entry, &e);
    for (;;) {
        int n = epoll_wait(poller, events, EVENTS, send_due());
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == entry) {
                int new;
                while ((new = accept4(entry, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (new >= MAX_FD) {
                        close(new);
                        continue;
                    }
                    setsockopt(new, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    e = (struct epoll_event){.events = EPOLLIN, .data.fd = new};
                    epoll_ctl(poller, EPOLL_CTL_ADD, new, &e);
                }
                continue;
            }
            if (events[i].events & EPOLLOUT) flush(fd);
            if ((events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !serve(fd)) drop(fd);
        }
    }
}
