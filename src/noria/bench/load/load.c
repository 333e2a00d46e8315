/* The load for an echo server.
 *
 *   load ADDRESS CONNECTIONS SIZE SECONDS [churn] [lines] [wait]
 *
 * ADDRESS is tcp:PORT or tls:PORT or udp:PORT (of 127.0.0.1) or unix:PATH. Each connection has one message of SIZE
 * bytes under way: it is sent, every byte that comes back is compared, and the next one is sent. First every connection
 * has its message answered once. Then the clock runs for SECONDS, after which no new message is sent and those under
 * way are waited for, so that every message the server has worked on is counted. Prints "MESSAGES SECONDS", for UDP
 * "MESSAGES SECONDS LOST": a datagram without an answer for a while is sent again and counted as lost.
 *
 *   churn  a new connection for each message, CONNECTIONS of them at a time
 *   lines  a message ends with a newline and has no other
 *   wait   print "ready" and wait for a line on standard input before the clock starts; wait for another one after the
 *          result, before the connections are closed: the caller can read the server's CPU time at these moments
 *
 * Exits with 1 and a message if the server does anything else, with 3 if nothing comes back for 5 seconds. In C, so
 * that the load costs less than any server under test; TLS with -DWITH_TLS -lssl -lcrypto. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
static SSL_CTX *tls_context;
#endif

enum {
    VARIANTS = 4,           /* different messages, so that one that goes astray is seen */
    OPENING = 64,           /* connections opened at a time: fewer than any server's backlog */
    BUFFER = 256 * 1024,    /* bytes to receive at a time */
    PATIENCE = 5,           /* seconds without a byte until we give up */
};
static const double RESEND = 0.1; /* seconds after which a datagram counts as lost */

struct connection {
    int fd;
    unsigned variant;   /* of the message under way */
    size_t sent, got;   /* bytes of it */
    bool under_way, waits_to_send, sent_again;
    double since;       /* UDP: when it was sent */
#ifdef WITH_TLS
    SSL *tls;
#endif
};

/* What was asked for. */
static struct sockaddr_storage address;
static socklen_t address_size;
static int socket_type = SOCK_STREAM;
static bool tcp, tls, churn, lines, wait_for_caller;
static int count;
static size_t size;

static int poller;
static struct connection *connections;
static char *messages[VARIANTS], received[BUFFER];
static bool running;            /* whether an answer is followed by the next message */
static int under_way;           /* connections with a message */
static long done, lost;
static double at, heard;        /* now, as of the last wait; when the server last sent something */

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static void die_of(const char *call) { die("%s: %s", call, strerror(errno)); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void parse_address(const char *text) {
    const char *colon = strchr(text, ':');
    if (!colon) die("%s is not an address: tcp:PORT, tls:PORT, udp:PORT or unix:PATH", text);
    if (!strncmp(text, "unix:", 5)) {
        struct sockaddr_un *path = (void *)&address;
        if (strlen(colon + 1) >= sizeof path->sun_path) die("%s is too long", text);
        path->sun_family = AF_UNIX;
        strcpy(path->sun_path, colon + 1);
        address_size = sizeof *path;
        return;
    }
    struct sockaddr_in *port = (void *)&address;
    *port = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(colon + 1))};
    port->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address_size = sizeof *port;
    tls = !strncmp(text, "tls:", 4);
    tcp = tls || !strncmp(text, "tcp:", 4);
    if (!strncmp(text, "udp:", 4)) socket_type = SOCK_DGRAM;
    else if (!tcp) die("%s is not an address: tcp:PORT, tls:PORT, udp:PORT or unix:PATH", text);
    if (!tls) return;
#ifdef WITH_TLS
    if (!(tls_context = SSL_CTX_new(TLS_client_method()))) die("OpenSSL cannot be set up");
    SSL_CTX_set_mode(tls_context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
#else
    die("TLS needs OpenSSL's headers (Debian: libssl-dev) when the load is compiled");
#endif
}

/* Letters without a period, so that bytes that are lost or come twice are seen wherever that happens. */
static void make_messages(void) {
    unsigned random = 1;
    for (int v = 0; v < VARIANTS; v++) {
        if (!(messages[v] = malloc(size))) die_of("malloc");
        for (size_t i = 0; i < size; i++)
            messages[v][i] = 'a' + ((random = random * 1664525 + 1013904223) >> 16) % 26;
        messages[v][0] = 'A' + v;
        if (lines) messages[v][size - 1] = '\n';
    }
}

static void watch(struct connection *c, int operation) {
    struct epoll_event event = {.events = EPOLLIN | (c->waits_to_send ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event) < 0) die_of("epoll_ctl");
}

/* One try to send or receive: the number of bytes, or 0 if it would have to wait. */
static size_t transfer(struct connection *c, bool out, const char *from, size_t length) {
#ifdef WITH_TLS
    if (tls) {
        ERR_clear_error();  /* the handshake is done by whichever comes first */
        int n = out ? SSL_write(c->tls, from, length) : SSL_read(c->tls, received, BUFFER);
        if (n > 0) return n;
        int why = SSL_get_error(c->tls, n);
        if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) return 0;
        if (why == SSL_ERROR_ZERO_RETURN) die("the server closed a connection");
        const char *reason = ERR_reason_error_string(ERR_get_error());
        die("%s: %s", out ? "send" : "receive", reason ? reason : "the server broke a TLS connection off");
    }
#endif
    ssize_t n = out ? send(c->fd, from, length, MSG_NOSIGNAL) : recv(c->fd, received, BUFFER, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (n < 0) die_of(out ? "send" : "receive");
    if (n == 0 && !out) die("the server closed a connection");
    return n;
}

/* Send what the kernel takes of the message; the rest when it has room, between receiving. */
static void send_more(struct connection *c) {
    while (c->sent < size) {
        size_t n = transfer(c, true, messages[c->variant] + c->sent, size - c->sent);
        if (n == 0) break;
        c->sent += n;
    }
    bool before = c->waits_to_send;
    c->waits_to_send = c->sent < size;
#ifdef WITH_TLS
    /* In mid-handshake it waits for the server, and a socket that has room would wake us in vain. */
    if (tls && SSL_want_read(c->tls)) c->waits_to_send = false;
#endif
    if (c->waits_to_send != before) watch(c, EPOLL_CTL_MOD);
}

static void begin_message(struct connection *c) {
    c->variant = (c->variant + 1) % VARIANTS;
    c->sent = c->got = 0;
    c->sent_again = false;
    c->since = at;
    if (!c->under_way) under_way++;
    c->under_way = true;
    send_more(c);
}

static void open_connection(struct connection *c) {
    c->fd = socket(address.ss_family, socket_type | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die_of("socket");
    if (connect(c->fd, (void *)&address, address_size) < 0) die_of("connect");
    if (fcntl(c->fd, F_SETFL, O_NONBLOCK) < 0) die_of("fcntl");
    int on = 1;
    if (tcp && setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0) die_of("TCP_NODELAY");
    /* A connection closed in the usual way keeps its port for a minute, and a churn would soon be out of ports. */
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    if (churn && setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) < 0) die_of("SO_LINGER");
#ifdef WITH_TLS
    if (tls) {
        if (!(c->tls = SSL_new(tls_context)) || !SSL_set_fd(c->tls, c->fd)) die("OpenSSL is out of memory");
        SSL_set_connect_state(c->tls);
    }
#endif
    c->waits_to_send = false;
    watch(c, EPOLL_CTL_ADD);
    begin_message(c);
}

static void close_connection(struct connection *c) {
#ifdef WITH_TLS
    if (tls) SSL_free(c->tls);
#endif
    close(c->fd);
}

static void answered(struct connection *c) {
    done++;
    if (churn) close_connection(c);
    if (running && churn) open_connection(c);
    else if (running) begin_message(c);
    else {
        c->under_way = false;
        under_way--;
    }
}

static void receive_stream(struct connection *c) {
    while (true) {
        size_t n = transfer(c, false, NULL, 0);
        if (n == 0) return;
        heard = at;
        if (!c->under_way || c->got + n > c->sent) die("more came back than was sent");
        if (memcmp(received, messages[c->variant] + c->got, n)) die("what came back is not what was sent");
        c->got += n;
        if (c->got == size) return answered(c);
        if (n < BUFFER && !tls) return;  /* the socket is empty; OpenSSL may hold more that nobody would wake us for */
    }
}

static void receive_datagram(struct connection *c) {
    size_t n = transfer(c, false, NULL, 0);
    if (n == 0) return;
    heard = at;
    if (c->under_way && n == size && !memcmp(received, messages[c->variant], n)) return answered(c);
    /* The late answer to a message that was sent again comes before the next one's. */
    if (n == size && !memcmp(received, messages[(c->variant + VARIANTS - 1) % VARIANTS], n)) return;
    if (!c->under_way && c->sent_again && n == size && !memcmp(received, messages[c->variant], n)) return;
    die("what came back is not what was sent");
}

static void send_lost_again(void) {
    for (struct connection *c = connections; c < connections + count; c++) {
        if (!c->under_way || at - c->since < RESEND) continue;
        lost++;
        c->sent = 0;
        c->sent_again = true;
        c->since = at;
        send_more(c);
    }
}

/* Wait for the sockets and do what can be done. */
static void turn(void) {
    static struct epoll_event events[256];
    static double looked;
    int ready = epoll_wait(poller, events, 256, socket_type == SOCK_DGRAM ? (int)(RESEND * 500) : PATIENCE * 1000);
    if (ready < 0 && errno != EINTR) die_of("epoll_wait");
    at = now();
    for (int i = 0; i < ready; i++) {
        struct connection *c = events[i].data.ptr;
        /* In this order: an answer may begin the next message, on a socket that is another one by then. */
        if (c->sent < size) send_more(c);
        if (socket_type == SOCK_DGRAM) receive_datagram(c);
        else receive_stream(c);
    }
    if (socket_type == SOCK_DGRAM && at - looked > RESEND / 2) {
        looked = at;
        send_lost_again();
    }
    if (at - heard > PATIENCE) {
        fprintf(stderr, "load: nothing came back for %d s; %d of %d connections have no answer\n", PATIENCE, under_way,
                count);
        exit(3);
    }
}

static void out_of_time(int signal) {
    (void)signal;
    static const char message[] = "load: not done 30 s after the time that was asked for\n";
    _exit(write(2, message, sizeof message - 1) < 0 ? 1 : 3);
}

static void wait_for_line(void) {
    fflush(stdout);
    char line[16];
    if (wait_for_caller && !fgets(line, sizeof line, stdin)) exit(0);  /* the caller is gone, or done */
}

int main(int argc, char **argv) {
    for (int i = 5; i < argc; i++) {
        if (!strcmp(argv[i], "churn")) churn = true;
        else if (!strcmp(argv[i], "lines")) lines = true;
        else if (!strcmp(argv[i], "wait")) wait_for_caller = true;
        else argc = 0;
    }
    if (argc < 5 || (count = atoi(argv[2])) < 1 || (size = atol(argv[3])) < 2 || atof(argv[4]) <= 0) {
        fprintf(stderr, "usage: load ADDRESS CONNECTIONS SIZE SECONDS [churn] [lines] [wait]; SIZE is at least 2\n");
        return 2;
    }
    double seconds = atof(argv[4]);
    parse_address(argv[1]);
    make_messages();
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur < (rlim_t)count + 16)
        die("%d connections need more descriptors than the hard limit, %ld", count, (long)files.rlim_cur);
    if ((poller = epoll_create1(EPOLL_CLOEXEC)) < 0) die_of("epoll_create1");
    if (!(connections = calloc(count, sizeof *connections))) die_of("calloc");
    signal(SIGALRM, out_of_time);  /* whatever the server does, this program ends */
    alarm(seconds + 30);

    at = heard = now();
    for (int opened = 0; opened < count || under_way;)
        if (opened < count && under_way < OPENING) open_connection(&connections[opened++]);
        else turn();
    if (wait_for_caller) puts("ready");
    wait_for_line();

    double start = at = heard = now();
    done = lost = 0;
    running = true;
    for (int i = 0; i < count; i++)
        if (churn) open_connection(&connections[i]);
        else begin_message(&connections[i]);
    while (at < start + seconds) turn();
    running = false;
    while (under_way) turn();
    printf(socket_type == SOCK_DGRAM ? "%ld %.6f %ld\n" : "%ld %.6f\n", done, at - start, lost);
    wait_for_line();
    return 0;
}
