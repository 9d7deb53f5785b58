/* Closed-loop LLM load client. Single-threaded epoll, no deps.
 * usage: load -u http://127.0.0.1:PORT/v1/chat/completions -c CONC -d SECS [-w WARM] [-m MODEL]
 *             [-s] (stream) [-n MAXTOK] [-r RAMP_SECS] [-H 'k: v']... [-p PROMPT_BYTES] [-U] (include_usage)
 * [-b BODYFILE] [-t PAUSE_MS] (after each answer). Prints one JSON line: requests, errors, rps, latency us p50/p90/p99/max, ttft us, gap us,
 * events, bytes. Only requests finished (events seen) inside the window [WARM, WARM+SECS) are counted.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <errno.h>
#include <time.h>
#include <signal.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
typedef struct {
    unsigned *v;
    size_t n, cap;
} vec;
static void push(vec *a, double us) {
    if (us < 0) {
        us = 0;
    }
    if (us > 4e9) {
        us = 4e9;
    }
    if (a->n == a->cap) {
        a->cap = a->cap ? a->cap * 2 : 65536;
        a->v = realloc(a->v, a->cap * 4);
    }
    a->v[a->n++] = (unsigned)us;
}
static int cmp(const void *x, const void *y) {
    unsigned a = *(unsigned *)x, b = *(unsigned *)y;
    return a < b ? -1 : a > b;
}
static unsigned pc(vec *a, double p) {
    if (!a->n) {
        return 0;
    }
    size_t i = (size_t)(p * (a->n - 1) + 0.5);
    return a->v[i];
}
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}
enum { HEAD, CL, CK_SIZE, CK_DATA, CK_CRLF, CK_TRAIL, EOFB };
typedef struct {
    int fd, state, status, hl, connclose;
    char hb[16384];
    long left;
    double t0, tlast, start_at;
    int got;
    int nl;
    int conn, ka;
    int ev;
    char dl[8];
    int done;
    int wok;
} con;
static struct sockaddr_in A;
static int ep;
static char *req;
static int reqlen;
static int stream;
static vec lat, ttft, gap;
static double W0, W1;
static long nreq, nerr, nev, nbytes, nconn, nbad_ev;
static int expect_ev;
static char lasterr[300];
static int inw(double t) {
    return t >= W0 && t < W1;
}
static void reopen(con *c) {
    if (c->fd >= 0) {
        close(c->fd);
    }
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, 4);
    connect(c->fd, (void *)&A, sizeof A);
    nconn++;
    c->wok = 0;
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
}
static void start(con *c) {
    c->state = HEAD;
    c->hl = 0;
    c->got = 0;
    c->nl = 0;
    c->ev = 0;
    c->connclose = 0;
    c->done = 0;
    c->t0 = now();
    c->tlast = 0;
    if (c->fd < 0) {
        reopen(c);
        return;
    }
    ssize_t n = send(c->fd, req, reqlen, MSG_NOSIGNAL);
    if (n != reqlen) {
        reopen(c);
    }
}
static double pause_us;
static void again(con *c) {
    if (pause_us == 0) {
        start(c);
        return;
    }
    c->start_at = now() + pause_us;
}
static void fail(con *c, const char *why) {
    double t = now();
    if (inw(t)) {
        nerr++;
        snprintf(lasterr, sizeof lasterr, "%s status=%d", why, c->status);
    }
    close(c->fd);
    c->fd = -1;
    start(c);
}
static void complete(con *c) {
    double t = now();
    int ok = c->status == 200;
    if (!ok) {
        if (inw(t)) {
            nerr++;
            c->hb[200] = 0;
            snprintf(lasterr, sizeof lasterr, "status=%d", c->status);
        }
    } else if (inw(t)) {
        nreq++;
        push(&lat, t - c->t0);
        if (stream && expect_ev && c->ev != expect_ev) {
            nbad_ev++;
        }
    }
    if (c->connclose) {
        close(c->fd);
        c->fd = -1;
    }
    again(c);
}
static void bodybytes(con *c, const char *p, int n) {
    double t = now();
    if (inw(t)) {
        nbytes += n;
    }
    if (!stream) {
        if (!c->got) {
            c->got = 1;
            if (inw(t)) {
                push(&ttft, t - c->t0);
            }
        }
        return;
    }
    int e = 0;
    for (int i = 0; i < n; i++) {
        if (p[i] == '\n') {
            if (++c->nl == 2) {
                e++;
            }
        } else if (p[i] != '\r') {
            c->nl = 0;
        }
    }
    if (!c->got && e) {
        c->got = 1;
        if (inw(t) && c->status == 200) {
            push(&ttft, t - c->t0);
        }
        c->tlast = t;
        c->ev += e;
        if (inw(t)) {
            nev += e;
        }
        return;
    }
    if (e) {
        if (inw(t) && c->status == 200) {
            push(&gap, t - c->tlast);
            for (int k = 1; k < e; k++) {
                push(&gap, 0);
            }
            nev += e;
        }
        c->tlast = t;
        c->ev += e;
    }
}
static int feed(con *c, const char *p, int n) { /* returns 1 when response complete */
    while (n > 0 || 0) {
        switch (c->state) {
        case HEAD: {
            int take = n;
            if (c->hl + take > (int)sizeof c->hb - 1) {
                take = sizeof c->hb - 1 - c->hl;
            }
            memcpy(c->hb + c->hl, p, take);
            int old = c->hl;
            c->hl += take;
            c->hb[c->hl] = 0;
            char *e = memmem(c->hb, c->hl, "\r\n\r\n", 4);
            if (!e) {
                return 0;
            }
            int hlen = e + 4 - c->hb;
            int used = hlen - old;
            p += used;
            n -= used;
            *e = 0;
            c->status = atoi(c->hb + 9);
            if (c->status == 100) {
                c->hl = 0;
                continue;
            }
            c->connclose = strcasestr(c->hb, "\r\nconnection: close") != NULL;
            char *q = strcasestr(c->hb, "\r\ncontent-length:");
            if (strcasestr(c->hb, "\r\ntransfer-encoding: chunked")) {
                c->state = CK_SIZE;
                c->left = 0;
                c->dl[0] = 0;
                c->hl = 0;
            } else if (q) {
                c->left = atol(q + 17);
                c->state = CL;
                if (c->left == 0) {
                    return 1;
                }
            } else {
                c->state = EOFB;
                c->connclose = 1;
            }
            break;
        }
        case CL: {
            int k = n < c->left ? n : c->left;
            bodybytes(c, p, k);
            c->left -= k;
            p += k;
            n -= k;
            if (!c->left) {
                return 1;
            }
            break;
        }
        case EOFB:
            bodybytes(c, p, n);
            n = 0;
            break;
        case CK_SIZE: {
            while (n > 0) {
                char ch = *p++;
                n--;
                if (ch == '\n') {
                    c->hb[c->hl] = 0;
                    c->left = strtol(c->hb, 0, 16);
                    c->hl = 0;
                    c->state = c->left ? CK_DATA : CK_TRAIL;
                    break;
                }
                if (c->hl < 63) {
                    c->hb[c->hl++] = ch;
                }
            }
            break;
        }
        case CK_DATA: {
            int k = n < c->left ? n : c->left;
            bodybytes(c, p, k);
            c->left -= k;
            p += k;
            n -= k;
            if (!c->left) {
                c->state = CK_CRLF;
            }
            break;
        }
        case CK_CRLF:
            if (*p++ == '\n') {
                c->state = CK_SIZE;
            }
            n--;
            break;
        case CK_TRAIL: {
            char ch = *p++;
            n--;
            if (ch == '\n') {
                if (c->hl == 0) {
                    return 1;
                }
                c->hl = 0;
            } else if (ch != '\r') {
                c->hl++;
            }
            break;
        }
        }
    }
    return 0;
}
int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    const char *url = 0, *model = "mock", *bodyf = 0;
    int C = 1, n_tok = 64, prompt = 200, usage = 0;
    double D = 5, Wm = 1, ramp = 0;
    char hdrs[4096] = "";
    int o;
    while ((o = getopt(argc, argv, "u:c:d:w:m:sn:r:H:p:Ub:e:t:")) != -1) {
        switch (o) {
        case 'u':
            url = optarg;
            break;
        case 'c':
            C = atoi(optarg);
            break;
        case 'd':
            D = atof(optarg);
            break;
        case 'w':
            Wm = atof(optarg);
            break;
        case 'm':
            model = optarg;
            break;
        case 's':
            stream = 1;
            break;
        case 'n':
            n_tok = atoi(optarg);
            break;
        case 'r':
            ramp = atof(optarg);
            break;
        case 'H':
            strcat(hdrs, optarg);
            strcat(hdrs, "\r\n");
            break;
        case 'p':
            prompt = atoi(optarg);
            break;
        case 'U':
            usage = 1;
            break;
        case 'b':
            bodyf = optarg;
            break;
        case 'e':
            expect_ev = atoi(optarg);
            break;
        case 't':
            pause_us = atof(optarg) * 1000;
            break;
        }
    }
    char host[64], path[512] = "/";
    int port = 80;
    sscanf(url, "http://%63[^:/]:%d%511s", host, &port, path);
    A.sin_family = AF_INET;
    A.sin_port = htons(port);
    inet_pton(AF_INET, host, &A.sin_addr);
    char *body = malloc(prompt + 65536);
    int bl;
    if (bodyf) {
        FILE *f = fopen(bodyf, "rb");
        bl = fread(body, 1, prompt + 65535, f);
        fclose(f);
    } else {
        char *pr = malloc(prompt + 1);
        for (int i = 0; i < prompt; i++) {
            pr[i] = "the quick brown fox "[i % 20];
        }
        pr[prompt] = 0;
        bl = sprintf(body,
                     "{\"model\":\"%s\",\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful "
                     "assistant.\"},{\"role\":\"user\",\"content\":\"%s\"}],\"temperature\":0.7,\"max_"
                     "tokens\":%d%s%s}",
                     model, pr, n_tok, stream ? ",\"stream\":true" : "",
                     (stream && usage) ? ",\"stream_options\":{\"include_usage\":true}" : "");
    }
    req = malloc(bl + 8192);
    reqlen =
        sprintf(req,
                "POST %s HTTP/1.1\r\nHost: %s:%d\r\nUser-Agent: llmload/1\r\nAccept: */*\r\n%sContent-Type: "
                "application/json\r\n%sContent-Length: %d\r\n\r\n",
                path, host, port,
                strcasestr(hdrs, "authorization:") ? "" : "Authorization: Bearer sk-bench\r\n", hdrs, bl);
    memcpy(req + reqlen, body, bl);
    reqlen += bl;
    ep = epoll_create1(0);
    con *cs = calloc(C, sizeof(con));
    double T = now();
    W0 = T + (Wm + ramp) * 1e6;
    W1 = W0 + D * 1e6;
    int started = 0;
    double rs = ramp * 1e6;
    for (int i = 0; i < C; i++) {
        cs[i].fd = -1;
    }
    struct epoll_event evs[512];
    static char buf[262144];
    for (;;) {
        double t = now();
        if (t >= W1) {
            break;
        }
        while (started < C && (rs == 0 || t - T >= rs * started / C)) {
            start(&cs[started++]);
        }
        for (int i = 0; pause_us > 0 && i < started; i++) {
            if (cs[i].start_at > 0 && t >= cs[i].start_at) {
                cs[i].start_at = 0;
                start(&cs[i]);
            }
        }
        int to = (int)((W1 - t) / 1000) + 1;
        if (started < C || pause_us > 0) {
            to = 1;
        }
        if (to > 50) {
            to = 50;
        }
        int n = epoll_wait(ep, evs, 512, to);
        for (int i = 0; i < n; i++) {
            con *c = evs[i].data.ptr;
            unsigned ev = evs[i].events;
            if (c->fd < 0) {
                continue;
            }
            if ((ev & EPOLLOUT) && !c->wok) {
                if (ev & (EPOLLERR | EPOLLHUP)) {
                    fail(c, "connect");
                    continue;
                }
                c->wok = 1;
                ssize_t w = send(c->fd, req, reqlen, MSG_NOSIGNAL);
                if (w != reqlen) {
                    fail(c, "send");
                    continue;
                }
            }
            if (ev & (EPOLLIN | EPOLLRDHUP | EPOLLHUP)) {
                for (;;) {
                    int fd = c->fd;
                    ssize_t r = recv(fd, buf, sizeof buf, 0);
                    if (r > 0) {
                        if (feed(c, buf, r)) {
                            complete(c);
                            break;
                        }
                        if (r < (ssize_t)sizeof buf && !(ev & (EPOLLRDHUP | EPOLLHUP))) {
                            break;
                        }
                        continue;
                    }
                    if (r == 0) {
                        if (c->state == EOFB) {
                            complete(c);
                        } else if (c->state == HEAD && c->hl == 0 && now() - c->t0 < 0) {
                        } else {
                            fail(c, "eof");
                        }
                        break;
                    }
                    if (errno == EAGAIN) {
                        break;
                    }
                    fail(c, "recv");
                    break;
                }
            }
        }
    }
    qsort(lat.v, lat.n, 4, cmp);
    qsort(ttft.v, ttft.n, 4, cmp);
    qsort(gap.v, gap.n, 4, cmp);
    double over = 0;
    for (size_t i = 0; i < gap.n; i++) {
        if (gap.v[i] > 40000) {
            over++;
        }
    }
    printf("{\"c\":%d,\"requests\":%ld,\"errors\":%ld,\"rps\":%.1f,\"lat_p50\":%u,\"lat_p90\":%u,\"lat_p99\":"
           "%u,\"lat_max\":%u,\"ttft_p50\":%u,\"ttft_p99\":%u,\"gap_p50\":%u,\"gap_p90\":%u,\"gap_p99\":%u,"
           "\"gap_p999\":%u,\"gap_max\":%u,\"over40\":%.5f,\"events\":%ld,\"eps\":%.1f,\"mbps\":%.2f,"
           "\"conns\":%ld,\"bad_events\":%ld,\"lasterr\":\"%s\"}\n",
           C, nreq, nerr, nreq / D, pc(&lat, .5), pc(&lat, .9), pc(&lat, .99), pc(&lat, 1), pc(&ttft, .5),
           pc(&ttft, .99), pc(&gap, .5), pc(&gap, .9), pc(&gap, .99), pc(&gap, .999), pc(&gap, 1),
           gap.n ? over / gap.n : 0.0, nev, nev / D, nbytes / D / 1e6, nconn, nbad_ev, lasterr);
    return 0;
}
