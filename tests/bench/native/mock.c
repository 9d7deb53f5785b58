/* A neuron made of canned answers, for benchmarks of gateways. Single-threaded epoll, no dependencies.
 * usage: mock PORT PACE_MS [FOLDER [NEURONS]]
 *   GET /x -> FOLDER/x.json, as it was at the start; without such a file a list of models.
 *   With NEURONS it is so many of them, from PORT on, and the first one's files are in FOLDER/0.
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
    struct neuron *of;
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
enum { ANSWERS = 3 };
static const char *answered[ANSWERS] = {"discovery", "health", "models"};
typedef struct neuron {
    int fd;
    char *answer[ANSWERS]; /* NULL: it has no such file */
    int len[ANSWERS];
} neuron;
static neuron *neurons;
static int n_neurons = 1;
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
        for (int i = 0; i < ANSWERS; i++) {
            int n = strlen(answered[i]);
            if (c->of->answer[i] && h[4] == '/' && !strncmp(h + 5, answered[i], n) && h[5 + n] == ' ') {
                sendc(c, c->of->answer[i], c->of->len[i]);
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
    char *newer = memmem(body, blen, "\"max_completion_tokens\":", 24);
    if (m || newer) {
        nt = m ? atoi(m + 13) : atoi(newer + 24);
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
static void can(neuron *of, int i, const char *folder) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.json", folder, answered[i]);
    FILE *f = fopen(path, "rb");
    if (!f) {
        return;
    }
    char *text = malloc(1 << 20);
    int n = fread(text, 1, 1 << 20, f);
    fclose(f);
    char *answer = of->answer[i] = malloc(n + 256);
    int head =
        sprintf(answer, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n", n);
    memcpy(answer + head, text, n);
    free(text);
    of->len[i] = head + n;
}
static void open_neuron(neuron *of, int port) {
    int one = 1;
    of->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(of->fd, SOL_SOCKET, SO_REUSEADDR, &one, 4);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (of->fd < 0 || bind(of->fd, (void *)&a, sizeof a) || listen(of->fd, 4096)) {
        perror("bind");
        exit(1);
    }
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = of};
    epoll_ctl(ep, EPOLL_CTL_ADD, of->fd, &ev);
}
static void accept_all(neuron *of) {
    int one = 1;
    for (;;) {
        int fd = accept4(of->fd, 0, 0, SOCK_NONBLOCK);
        if (fd < 0) {
            return;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, 4);
        conn *c = calloc(1, sizeof *c);
        c->fd = fd;
        c->of = of;
        c->alive = 1;
        c->slot = -1;
        c->in = malloc(INBUF + 1);
        struct epoll_event e2 = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e2);
    }
}
int main(int argc, char **argv) {
    int port = argc > 1 ? atoi(argv[1]) : 9100;
    if (argc > 2) {
        pace = atoi(argv[2]);
    }
    if (argc > 4) {
        n_neurons = atoi(argv[4]);
    }
    neurons = calloc(n_neurons, sizeof *neurons);
    for (int i = 0; argc > 3 && i < n_neurons * ANSWERS; i++) {
        char folder[4000];
        snprintf(folder, sizeof folder, argc > 4 ? "%s/%d" : "%s", argv[3], i / ANSWERS);
        can(&neurons[i / ANSWERS], i % ANSWERS, folder);
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
    ep = epoll_create1(0);
    for (int i = 0; i < n_neurons; i++) {
        open_neuron(&neurons[i], port + i);
    }
    int tf = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct itimerspec it = {{0, tick_ms * 1000000}, {0, tick_ms * 1000000}};
    timerfd_settime(tf, 0, &it, 0);
    static int tfmark;
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &tfmark};
    epoll_ctl(ep, EPOLL_CTL_ADD, tf, &ev);
    struct epoll_event evs[512];
    for (;;) {
        int n = epoll_wait(ep, evs, 512, -1);
        for (int i = 0; i < n; i++) {
            neuron *heard = evs[i].data.ptr;
            if (heard >= neurons && heard < neurons + n_neurons) {
                accept_all(heard);
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
