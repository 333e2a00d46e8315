/* Load for an echo server: keeps one message under way on each of many connections.
 *
 *   load PORT CONNECTIONS SIZE SECONDS
 *
 * Connects to 127.0.0.1, sends SIZE bytes on each connection, waits until as many came back, compares them, sends again.
 * Prints the messages that came back whole during SECONDS. Exits with 1 and a message if the server does anything else.
 * Written in C so that the load costs less than any server under test. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, errno ? strerror(errno) : "wrong");
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: load PORT CONNECTIONS SIZE SECONDS\n");
        return 2;
    }
    int count = atoi(argv[2]), size = atoi(argv[3]), one = 1;
    double seconds = atof(argv[4]);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    int poll = epoll_create1(0);
    int *fds = calloc(count, sizeof *fds), *got = calloc(count, sizeof *got);
    char *message = malloc(size), *buffer = malloc(size);
    struct epoll_event events[256];
    if (poll < 0 || !fds || !got || !message || !buffer) die("set-up");
    for (int i = 0; i < size; i++) message[i] = 'a' + i % 26;

    for (int i = 0; i < count; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM, 0);
        if (fds[i] < 0 || connect(fds[i], (void *)&address, sizeof address) < 0) die("connect");
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, fds[i], &event) < 0) die("epoll_ctl");
    }
    for (int i = 0; i < count; i++)
        if (send(fds[i], message, size, 0) != size) die("send");

    long done = 0;
    double start = now(), end = start + seconds, at = start;
    while (at < end) {
        int ready = epoll_wait(poll, events, 256, 5000);
        if (ready <= 0) die("no answer within 5 s");
        for (int e = 0; e < ready; e++) {
            int i = events[e].data.u32;
            ssize_t n = recv(fds[i], buffer, size - got[i], MSG_DONTWAIT);
            if (n < 0 && errno == EAGAIN) continue;
            if (n <= 0) die("recv");
            errno = 0;
            if (memcmp(buffer, message + got[i], n)) die("what came back");
            if ((got[i] += n) < size) continue;
            got[i] = 0;
            done++;
            if (send(fds[i], message, size, 0) != size) die("send");
        }
        at = now();
    }
    printf("%ld %.6f\n", done, at - start);
    return 0;
}
