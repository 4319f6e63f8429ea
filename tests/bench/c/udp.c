/* Echo over UDP: as many datagrams a call as there are, up to 64. */
#include "common.h"

#define BATCH 64
#define ROOM 2048

static char rooms[BATCH][ROOM];

int main(int argc, char **argv)
{
    struct sockaddr_in peers[BATCH];
    struct iovec pieces[BATCH];
    struct mmsghdr messages[BATCH];
    int fd = bound(argc, argv, SOCK_DGRAM);

    for (;;) {
        int count, sent = 0;

        for (int index = 0; index < BATCH; index++) {
            pieces[index] = (struct iovec){rooms[index], ROOM};
            messages[index] = (struct mmsghdr){.msg_hdr = {.msg_name = &peers[index],
                                                           .msg_namelen = sizeof peers[index],
                                                           .msg_iov = &pieces[index],
                                                           .msg_iovlen = 1}};
        }
        count = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        for (int index = 0; index < count; index++)
            pieces[index].iov_len = messages[index].msg_len;
        while (sent < count) {
            int done = sendmmsg(fd, messages + sent, (unsigned)(count - sent), 0);
            sent += done > 0 ? done : 1;
        }
    }
}
