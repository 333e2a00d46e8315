/* System calls that need a feature macro or a fallback. */
#ifndef NORIA_IO_H
#define NORIA_IO_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static inline int noria_accept(int fd, struct sockaddr_storage *addr, socklen_t *size) {
    return accept4(fd, (struct sockaddr *)addr, size, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static inline int noria_recvmmsg(int fd, struct mmsghdr *messages, int count) {
    return recvmmsg(fd, messages, (unsigned int)count, MSG_DONTWAIT, NULL);
}

static inline int noria_sendmmsg(int fd, struct mmsghdr *messages, int count) {
    return sendmmsg(fd, messages, (unsigned int)count, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Let glibc keep up to 8 MiB of free heap instead of giving it back to the kernel and faulting it in again, page by
   page, for each message of more than 64 KiB. Freeing one block of its own that was mapped makes malloc raise both its
   thresholds (mallopt(3), M_MMAP_THRESHOLD: the dynamic one, and M_TRIM_THRESHOLD to twice that). Unlike a call of
   mallopt() that leaves the thresholds alone which the user has set, and does nothing with other allocators. */
static inline void noria_keep_heap(void) {
    void *volatile block = malloc(4 * 1024 * 1024);  /* volatile: or the compiler takes the pair for nothing */
    free(block);
}

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

/* Wait for events; timeout in seconds, below 0 for ever. Nanosecond deadlines where the kernel has them (5.11),
   else rounded up to milliseconds so that a timer is never early. */
static int noria_wait(int epfd, struct epoll_event *events, int room, double timeout) {
    static int coarse = 0;
    if (timeout > 0 && !coarse) {
        struct timespec ts;
        long n;
        ts.tv_sec = (time_t)timeout;
        ts.tv_nsec = (long)((timeout - (double)ts.tv_sec) * 1e9);
        n = syscall(SYS_epoll_pwait2, epfd, events, room, &ts, NULL, 0);
        if (n >= 0 || (errno != ENOSYS && errno != EPERM)) return (int)n;
        coarse = 1;
    }
    return epoll_wait(epfd, events, room, timeout < 0 ? -1 : timeout > 0 ? (int)ceil(timeout * 1e3) : 0);
}

#endif
