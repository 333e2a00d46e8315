# The system calls that drivers and transports make, as the man pages of section 2 declare them.
from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        uint16_t sa_family
    cdef struct sockaddr_storage:
        uint16_t ss_family
    cdef struct iovec "iovec":
        void* iov_base
        size_t iov_len
    cdef struct msghdr:
        void* msg_name
        socklen_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        int msg_flags
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    ssize_t recv(int fd, void* buf, size_t n, int flags)
    ssize_t send(int fd, const void* buf, size_t n, int flags)
    ssize_t sendmsg(int fd, const msghdr* msg, int flags)
    ssize_t sendto(int fd, const void* buf, size_t n, int flags, const sockaddr* addr, socklen_t size)
    ssize_t recvmsg(int fd, msghdr* msg, int flags)
    int shutdown(int fd, int how)
    int getsockname(int fd, sockaddr* addr, socklen_t* size)
    int getpeername(int fd, sockaddr* addr, socklen_t* size)
    int getsockopt(int fd, int level, int name, void* value, socklen_t* size)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t size)
    enum:
        AF_INET, AF_INET6, AF_UNIX
        MSG_NOSIGNAL, MSG_DONTWAIT, MSG_TRUNC
        SHUT_WR
        SOCK_NONBLOCK, SOCK_CLOEXEC
        SOL_SOCKET, SO_ERROR

cdef extern from "noria_io.h" nogil:
    int noria_accept(int fd, sockaddr_storage* addr, socklen_t* size)
    int noria_recvmmsg(int fd, mmsghdr* messages, int count)
    int noria_sendmmsg(int fd, mmsghdr* messages, int count)
    void noria_keep_heap()
    int noria_wait(int epfd, epoll_event* events, int room, double timeout)

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct in6_addr:
        unsigned char s6_addr[16]
    cdef struct sockaddr_in:
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    uint16_t ntohs(uint16_t x)
    uint32_t ntohl(uint32_t x)
    uint16_t htons(uint16_t x)
    uint32_t htonl(uint32_t x)

cdef extern from "<sys/un.h>" nogil:
    cdef struct sockaddr_un:
        char sun_path[108]

cdef extern from "<arpa/inet.h>" nogil:
    const char* inet_ntop(int family, const void* addr, char* text, socklen_t size)
    int inet_pton(int family, const char* text, void* addr)

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        IPPROTO_TCP, TCP_NODELAY

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    enum:
        EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
        EPOLLIN, EPOLLOUT, EPOLLET, EPOLLERR, EPOLLHUP, EPOLLRDHUP

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int value, int flags)
    enum:
        EFD_NONBLOCK, EFD_CLOEXEC

cdef extern from "<fcntl.h>" nogil:
    enum:
        O_NONBLOCK, O_CLOEXEC

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    ssize_t read(int fd, void* buf, size_t n)
    ssize_t write(int fd, const void* buf, size_t n)
    int pipe2(int* fds, int flags)

cdef extern from "<sys/uio.h>" nogil:
    ssize_t writev(int fd, const iovec* parts, int count)

cdef extern from "<errno.h>" nogil:
    int errno
    enum:
        EAGAIN, EINTR, EEXIST, ENOENT, EPERM, EBADF, EMFILE, ENFILE, ENOBUFS, ENOMEM, ECONNABORTED
        EPIPE, ECONNRESET, EPROTO, EMSGSIZE, EIO, ECANCELED, ETIME, EBUSY, ENOSYS
