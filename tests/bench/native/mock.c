/* A neuron made of canned answers, for benchmarks of gateways. Single-threaded epoll, no dependencies.
 * usage: mock PORT PACE_MS [FOLDER]
 *   GET /x -> FOLDER/x.json, as it was at the start; without such a file a list of models.
 *   POST anything -> a fixed chat.completion.
 *   With "stream":true in the body -> an event stream, one HTTP chunk and one send() an event, and the
 *   usage in a trailer. Content events are `max_tokens` (64 unsaid); where the body has "paced" they are
 *   PACE_MS apart, else as fast as can be.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>

#define INBUF 65536
typedef struct conn {
    int fd, in_len, alive;
    char *in;
    int left, total, idx; /* stream state: content events left */
    int streaming, want_usage;
    char *out;
    int out_len, out_off, out_cap; /* backlog */
    struct conn *prev, *next;
    int slot;
} conn;
static int ep, pace = 20, tick_ms = 1;
static conn *wheel[1000];
static int now_slot = 0, nslots = 20;
static char json_resp[4096];
static int json_len;
static char get_resp[1024];
static int get_len;
static struct {
    char path[64];
    char *answer;
    int len;
} canned[8];
static int n_canned;
static const char *sse_head =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: "
    "no-cache\r\ntransfer-encoding: chunked\r\ntrailer: x-cortex-usage\r\nx-request-id: mock-1\r\n\r\n";
static void closec(conn *c);

static void wheel_del(conn *c) {
    if (c->slot < 0) {
        return;
    }
    if (c->prev) {
        c->prev->next = c->next;
    } else {
        wheel[c->slot] = c->next;
    }
    if (c->next) {
        c->next->prev = c->prev;
    }
    c->prev = c->next = NULL;
    c->slot = -1;
}
static void wheel_add(conn *c, int slot) {
    c->slot = slot;
    c->prev = NULL;
    c->next = wheel[slot];
    if (c->next) {
        c->next->prev = c;
    }
    wheel[slot] = c;
}

static int flushc(conn *c) {
    while (c->out_off < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) {
                return 0;
            }
            c->alive = 0;
            return -1;
        }
        c->out_off += n;
    }
    c->out_off = c->out_len = 0;
    return 1;
}
static void sendc(conn *c, const char *p, int n) {
    if (!c->alive) {
        return;
    }
    if (c->out_len == 0) {
        ssize_t w = send(c->fd, p, n, MSG_NOSIGNAL);
        if (w < 0) {
            if (errno != EAGAIN) {
                c->alive = 0;
                return;
            }
            w = 0;
        }
        if (w == n) {
            return;
        }
        p += w;
        n -= w;
    }
    if (c->out_len + n > c->out_cap) {
        c->out_cap = (c->out_len + n) * 2;
        c->out = realloc(c->out, c->out_cap);
    }
    memcpy(c->out + c->out_len, p, n);
    c->out_len += n;
}
static int event(char *dst, const char *payload, int plen) {
    return sprintf(dst, "%x\r\n%.*s\r\n", plen, plen, payload);
}
static const char *CH =
    "{\"id\":\"chatcmpl-mock0000000000000000000000\",\"object\":\"chat.completion.chunk\",\"created\":"
    "1700000000,\"model\":\"mock\",\"system_fingerprint\":\"fp_mock\",\"choices\":[{\"index\":0,\"delta\":{%"
    "s},\"logprobs\":null,\"finish_reason\":%s}]%s}";
static int mk(char *buf, int kind, int i, int total) { /* 0 role,1 content,2 finish,3 usage,4 done */
    char pl[1024], js[900];
    int n;
    if (kind == 4) {
        return event(buf, "data: [DONE]\n\n", 14);
    }
    if (kind == 3) {
        n = sprintf(js,
                    "{\"id\":\"chatcmpl-mock0000000000000000000000\",\"object\":\"chat.completion.chunk\","
                    "\"created\":1700000000,\"model\":\"mock\",\"choices\":[],\"usage\":{\"prompt_tokens\":"
                    "12,\"completion_tokens\":%d,\"total_tokens\":%d}}",
                    total, total + 12);
    } else {
        char d[128];
        if (kind == 0) {
            strcpy(d, "\"role\":\"assistant\",\"content\":\"\"");
        } else if (kind == 1) {
            sprintf(d, "\"content\":\" token%d\"", i);
        } else {
            d[0] = 0;
        }
        n = sprintf(js, CH, d, kind == 2 ? "\"stop\"" : "null", "");
    }
    (void)n;
    int m = sprintf(pl, "data: %s\n\n", js);
    return event(buf, pl, m);
}
static void finish(conn *c) {
    char b[2048];
    int n = mk(b, 2, 0, 0);
    sendc(c, b, n);
    if (c->want_usage) {
        n = mk(b, 3, 0, c->total);
        sendc(c, b, n);
    }
    n = mk(b, 4, 0, 0);
    n += sprintf(b + n, "0\r\nx-cortex-usage: prompt=12,cached=0,completion=%d\r\n\r\n", c->total);
    sendc(c, b, n);
    c->streaming = 0;
}
static void step(conn *c) {
    char b[2048];
    int n = mk(b, 1, c->idx++, 0);
    sendc(c, b, n);
    if (--c->left == 0) {
        wheel_del(c);
        finish(c);
    }
}
static void handle(conn *c, const char *h, const char *body, int blen) {
    if (!strncmp(h, "GET", 3)) {
        for (int i = 0; i < n_canned; i++) {
            if (!strncmp(h + 4, canned[i].path, strlen(canned[i].path))) {
                sendc(c, canned[i].answer, canned[i].len);
                return;
            }
        }
        sendc(c, get_resp, get_len);
        return;
    }
    int st = memmem(body, blen, "\"stream\":true", 13) || memmem(body, blen, "\"stream\": true", 14);
    if (!st) {
        sendc(c, json_resp, json_len);
        return;
    }
    c->want_usage = memmem(body, blen, "include_usage", 13) != NULL;
    int paced = memmem(body, blen, "paced", 5) != NULL;
    int nt = 64;
    char *m = memmem(body, blen, "\"max_tokens\":", 13);
    if (m) {
        nt = atoi(m + 13);
        if (nt < 1) {
            nt = 64;
        }
    }
    c->left = c->total = nt;
    c->idx = 0;
    c->streaming = 1;
    char b[4096];
    int n = sprintf(b, "%s", sse_head);
    n += mk(b + n, 0, 0, 0);
    sendc(c, b, n);
    if (paced) {
        wheel_add(c, now_slot);
    } /* first content event one full turn later */
    else {
        while (c->left > 0 && c->alive) {
            step(c);
        }
    }
}
static void parse(conn *c) {
    while (c->alive && !c->streaming && c->in_len > 0) {
        c->in[c->in_len] = 0;
        char *e = memmem(c->in, c->in_len, "\r\n\r\n", 4);
        if (!e) {
            return;
        }
        int hl = e + 4 - c->in, bl = 0, chunked = 0;
        *e = 0;
        char *p = strcasestr(c->in, "\r\ncontent-length:");
        if (p) {
            bl = atoi(p + 17);
        }
        char *q = strcasestr(c->in, "\r\ntransfer-encoding: chunked");
        if (q) {
            chunked = 1;
        }
        *e = '\r';
        if (strcasestr(c->in, "\r\nexpect: 100-continue") && c->in_len == hl) {
            sendc(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
        }
        if (chunked) {
            char *z = memmem(c->in + hl, c->in_len - hl, "0\r\n\r\n", 5);
            if (!z) {
                return;
            }
            bl = z + 5 - (c->in + hl);
        }
        if (c->in_len < hl + bl) {
            return;
        }
        handle(c, c->in, c->in + hl, bl);
        memmove(c->in, c->in + hl + bl, c->in_len - hl - bl);
        c->in_len -= hl + bl;
    }
}
static void closec(conn *c) {
    wheel_del(c);
    epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, 0);
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}
static void can(const char *folder, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.json", folder, name);
    FILE *f = fopen(path, "rb");
    if (!f) {
        return;
    }
    char *text = malloc(1 << 20);
    int n = fread(text, 1, 1 << 20, f);
    fclose(f);
    char *answer = canned[n_canned].answer = malloc(n + 256);
    int head =
        sprintf(answer, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n", n);
    memcpy(answer + head, text, n);
    free(text);
    canned[n_canned].len = head + n;
    snprintf(canned[n_canned++].path, sizeof canned[0].path, "/%s ", name);
}
int main(int argc, char **argv) {
    int port = argc > 1 ? atoi(argv[1]) : 9100;
    if (argc > 2) {
        pace = atoi(argv[2]);
    }
    for (int i = 0; argc > 3 && i < 3; i++) {
        can(argv[3], ((const char *[]){"discovery", "health", "models"})[i]);
    }
    nslots = pace / tick_ms;
    if (nslots < 1) {
        nslots = 1;
    }
    signal(SIGPIPE, SIG_IGN);
    const char *body =
        "{\"id\":\"chatcmpl-mock0000000000000000000000\",\"object\":\"chat.completion\",\"created\":"
        "1700000000,\"model\":\"mock\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
        "\"content\":\"The quick brown fox jumps over the lazy dog. The quick brown fox jumps over the lazy "
        "dog. The quick brown fox jumps over the lazy dog. The quick brown fox jumps over the lazy "
        "dog.\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_"
        "tokens\":12,\"completion_tokens\":40,\"total_tokens\":52},\"system_fingerprint\":\"fp_mock\"}";
    json_len = sprintf(json_resp,
                       "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: "
                       "mock-1\r\ncontent-length: %d\r\n\r\n%s",
                       (int)strlen(body), body);
    const char *g = "{\"object\":\"list\",\"status\":\"ok\",\"data\":[{\"id\":\"mock\",\"object\":\"model\","
                    "\"created\":1,\"owned_by\":\"mock\"}],\"model_path\":\"mock\",\"is_generation\":true}";
    get_len =
        sprintf(get_resp, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s",
                (int)strlen(g), g);
    int ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, 4);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(ls, (void *)&a, sizeof a)) {
        perror("bind");
        return 1;
    }
    listen(ls, 4096);
    ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(ep, EPOLL_CTL_ADD, ls, &ev);
    int tf = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct itimerspec it = {{0, tick_ms * 1000000}, {0, tick_ms * 1000000}};
    timerfd_settime(tf, 0, &it, 0);
    static int tfmark;
    ev.data.ptr = &tfmark;
    epoll_ctl(ep, EPOLL_CTL_ADD, tf, &ev);
    struct epoll_event evs[512];
    for (;;) {
        int n = epoll_wait(ep, evs, 512, -1);
        for (int i = 0; i < n; i++) {
            if (evs[i].data.ptr == NULL) {
                for (;;) {
                    int fd = accept4(ls, 0, 0, SOCK_NONBLOCK);
                    if (fd < 0) {
                        break;
                    }
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, 4);
                    conn *c = calloc(1, sizeof *c);
                    c->fd = fd;
                    c->alive = 1;
                    c->slot = -1;
                    c->in = malloc(INBUF + 1);
                    struct epoll_event e2 = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                             .data.ptr = c};
                    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e2);
                }
                continue;
            }
            if (evs[i].data.ptr == &tfmark) {
                unsigned long long k;
                if (read(tf, &k, 8) != 8) {
                    continue;
                }
                if (k > (unsigned)nslots) {
                    k = nslots;
                }
                while (k--) {
                    now_slot = (now_slot + 1) % nslots;
                    conn *c = wheel[now_slot];
                    while (c) {
                        conn *nx = c->next;
                        step(c);
                        c = nx;
                    }
                }
                continue;
            }
            conn *c = evs[i].data.ptr;
            if (evs[i].events & EPOLLIN) {
                for (;;) {
                    if (c->in_len >= INBUF) {
                        c->alive = 0;
                        break;
                    }
                    ssize_t r = recv(c->fd, c->in + c->in_len, INBUF - c->in_len, 0);
                    if (r > 0) {
                        c->in_len += r;
                        parse(c);
                        if (!c->alive) {
                            break;
                        }
                        continue;
                    }
                    if (r == 0) {
                        c->alive = 0;
                    } else if (errno != EAGAIN) {
                        c->alive = 0;
                    }
                    break;
                }
            }
            if (c->alive && (evs[i].events & EPOLLOUT) && c->out_len) {
                flushc(c);
            }
            if (evs[i].events & (EPOLLHUP | EPOLLERR)) {
                c->alive = 0;
            }
            if (!c->alive) {
                closec(c);
            }
        }
    }
}
