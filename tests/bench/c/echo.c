/* Echo over TCP: one thread, one epoll, a read and a write an event. With GUARD, whoever comes from REFUSED is
 * reset instead. */
#include "common.h"

static char buffer[65536];

static void newcomers(int epoll, int listener)
{
    int fd;

#ifdef GUARD
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    struct sockaddr_in peer;
    socklen_t length = sizeof peer;

    while ((fd = accept4(listener, (struct sockaddr *)&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        length = sizeof peer;
        if ((ntohl(peer.sin_addr.s_addr) & REFUSED_MASK) == REFUSED) {
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
            close(fd);
            continue;
        }
#else
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
#endif
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
            close(fd);
    }
}

/* Writes all of it, waiting for room: the benchmarks' own peers always read. */
static void talk(int fd)
{
    ssize_t count = read(fd, buffer, sizeof buffer), done = 0;

    if (count <= 0) {
        if (count == 0 || (errno != EAGAIN && errno != EINTR))
            close(fd);
        return;
    }
    while (done < count) {
        ssize_t written = write(fd, buffer + done, (size_t)(count - done));
        if (written < 0 && errno != EAGAIN && errno != EINTR) {
            close(fd);
            return;
        }
        if (written > 0)
            done += written;
    }
}

int main(int argc, char **argv)
{
    struct epoll_event events[512], event = {.events = EPOLLIN};
    int epoll, listener = listening(argc, argv);

    event.data.fd = listener;
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0)
        fail("epoll");
    if (fcntl(listener, F_SETFL, O_NONBLOCK) < 0)
        fail("fcntl");
    for (;;) {
        int count = epoll_wait(epoll, events, 512, -1);
        for (int index = 0; index < count; index++) {
            if (events[index].data.fd == listener)
                newcomers(epoll, listener);
            else
                talk(events[index].data.fd);
        }
    }
}
