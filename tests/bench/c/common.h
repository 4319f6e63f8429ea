/* What the bare servers share: sockets and failing. Each is the least a server can do for its work, in C,
 * so that what a real one costs can be set against it. Usage of all: PROGRAM PORT. */
#ifndef COMMON_H
#define COMMON_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static inline void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* A socket bound to 127.0.0.1 and the port named by the only argument. */
static inline int bound(int argc, char **argv, int kind)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    int fd, on = 1;

    if (argc != 2) {
        fprintf(stderr, "usage: %s PORT\n", argv[0]);
        exit(2);
    }
    address.sin_port = htons((unsigned short)atoi(argv[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    fd = socket(AF_INET, kind | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket");
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        fail("SO_REUSEADDR");
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("bind");
    return fd;
}

static inline int listening(int argc, char **argv)
{
    int on = 1, fd = bound(argc, argv, SOCK_STREAM);

    /* Accepted sockets inherit it. */
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        fail("TCP_NODELAY");
    if (listen(fd, 4096) < 0)
        fail("listen");
    return fd;
}

#endif
