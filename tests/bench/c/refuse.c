/* Refuses every TCP connection: accept, then a reset. */
#include "common.h"

int main(int argc, char **argv)
{
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    int fd, listener = listening(argc, argv);

    for (;;) {
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        close(fd);
    }
}
