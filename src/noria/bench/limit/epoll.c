/* The floor: a TCP echo server on epoll, without Python.
 *
 *   epoll
 *
 * Listens on a free port of 127.0.0.1, prints {"address": "tcp:PORT"} and serves until it is killed. It does what any
 * server must: receive, send, and keep what the kernel did not take, without receiving more of that connection. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 256 * 1024, EVENTS = 1024 };

struct connection {
    int fd;
    char *rest;  /* what the kernel has not taken yet; NULL most of the time */
    size_t from, length;
};

static int poller;
static char buffer[BUFFER];

static void die(const char *call) {
    perror(call);
    exit(1);
}

static int listen_somewhere(void) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (fd < 0) die("socket");
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0) die("TCP_NODELAY");  /* inherited */
    if (bind(fd, (void *)&address, size) < 0 || listen(fd, 1024) < 0) die("listen");
    if (getsockname(fd, (void *)&address, &size) < 0) die("getsockname");
    printf("{\"address\": \"tcp:%d\"}\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void watch(struct connection *c, int operation) {
    struct epoll_event event = {.events = c->rest ? EPOLLOUT : EPOLLIN, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event) < 0) die("epoll_ctl");
}

static void accept_all(int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c) die("calloc");
        c->fd = fd;
        watch(c, EPOLL_CTL_ADD);
    }
    if (errno != EAGAIN && errno != ECONNABORTED) die("accept");
}

static void drop(struct connection *c) {
    close(c->fd);
    free(c->rest);
    free(c);
}

/* The bytes that the kernel took of these, or -1 if the connection is gone. */
static ssize_t send_some(struct connection *c, const char *data, size_t length) {
    ssize_t n = send(c->fd, data, length, MSG_NOSIGNAL);
    return n < 0 && errno == EAGAIN ? 0 : n;
}

static void receive(struct connection *c) {
    ssize_t n = recv(c->fd, buffer, BUFFER, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return drop(c);
    ssize_t sent = send_some(c, buffer, n);
    if (sent == n) return;
    if (sent < 0) return drop(c);
    c->from = 0;
    c->length = n - sent;
    if (!(c->rest = malloc(c->length))) die("malloc");
    memcpy(c->rest, buffer + sent, c->length);
    watch(c, EPOLL_CTL_MOD);
}

static void send_rest(struct connection *c) {
    ssize_t sent = send_some(c, c->rest + c->from, c->length - c->from);
    if (sent < 0) return drop(c);
    c->from += sent;
    if (c->from < c->length) return;
    free(c->rest);
    c->rest = NULL;
    watch(c, EPOLL_CTL_MOD);
}

int main(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    if ((poller = epoll_create1(EPOLL_CLOEXEC)) < 0) die("epoll_create1");
    int listener = listen_somewhere();
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event) < 0) die("epoll_ctl");
    while (1) {
        int ready = epoll_wait(poller, events, EVENTS, -1);
        if (ready < 0 && errno != EINTR) die("epoll_wait");
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) accept_all(listener);
            else if (c->rest) send_rest(c);
            else receive(c);
        }
    }
}
