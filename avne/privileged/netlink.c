// SPDX-License-Identifier: GPL-3.0-or-later
/* rtnetlink(7): a handful of fixed requests, each a table of its attributes. */
#define _GNU_SOURCE
#include "netlink.h"

#include <errno.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { LARGEST = 256, DEEPEST = 3 };  // of our requests: bytes, and nested attributes

int open_netlink(void)
{
    return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
}

/* One request: `body` is its fixed part.  Waits for the answer: 0, or -1 with errno. */
int ask(int netlink, uint16_t type, uint16_t flags, const void *body, size_t size, const struct part *parts)
{
    union {
        struct nlmsghdr head;
        char room[LARGEST];
    } request = {.head = {.nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags}};
    struct {
        struct nlmsghdr head;
        struct nlmsgerr result;
    } answer;                  // when it failed our request follows, and is cut off
    struct rtattr *nests[DEEPEST] = {0};
    unsigned depth = 0;
    size_t end = NLMSG_SPACE(size);

    memcpy(NLMSG_DATA(&request), body, size);
    for (; parts->kind != END; parts++) {
        struct rtattr *attribute = (struct rtattr *)(request.room + end);

        if (parts->kind == CLOSE && depth) {
            attribute = nests[--depth];
            attribute->rta_len = (uint16_t)(request.room + end - (char *)attribute);
            continue;
        }
        end += RTA_SPACE(parts->size);
        if (end > sizeof request || parts->kind == CLOSE || (parts->kind == OPEN && depth == DEEPEST))
            abort();
        attribute->rta_type = parts->kind == OPEN ? parts->type | NLA_F_NESTED : parts->type;
        attribute->rta_len = (uint16_t)RTA_LENGTH(parts->size);
        if (parts->size)
            memcpy(RTA_DATA(attribute), parts->data, parts->size);
        if (parts->kind == OPEN)
            nests[depth++] = attribute;
    }
    request.head.nlmsg_len = (uint32_t)end;
    if (send(netlink, &request, end, 0) < 0)
        return -1;
    errno = EPROTO;
    if (recv(netlink, &answer, sizeof answer, 0) < (ssize_t)NLMSG_LENGTH(sizeof answer.result)
        || answer.head.nlmsg_type != NLMSG_ERROR)
        return -1;
    errno = -answer.result.error;
    return answer.result.error ? -1 : 0;
}

int bring_up(int netlink, int index)
{
    const unsigned flags = index == LOOPBACK ? IFF_UP : IFF_UP | IFF_NOARP;  // a tun has no ARP anyway
    const struct ifinfomsg link = {.ifi_index = index, .ifi_flags = flags, .ifi_change = flags};

    return ask(netlink, RTM_NEWLINK, 0, &link, sizeof link, (const struct part[]){{.kind = END}});
}

/* No link-local address means no router solicitation: the device is silent until the program speaks. */
int prepare_link(int netlink, int index, bool v6)
{
    const struct ifinfomsg link = {.ifi_index = index};
    const uint32_t mtu = TUN_MTU, queue = TUN_QUEUE;
    const uint8_t no_address = IN6_ADDR_GEN_MODE_NONE;
    const struct part parts[] = {
        {VALUE, IFLA_MTU, &mtu, sizeof mtu},
        {VALUE, IFLA_TXQLEN, &queue, sizeof queue},
        {.kind = v6 ? OPEN : END, .type = IFLA_AF_SPEC},
        {.kind = OPEN, .type = AF_INET6},
        {VALUE, IFLA_INET6_ADDR_GEN_MODE, &no_address, sizeof no_address},
        {.kind = CLOSE},
        {.kind = CLOSE},
        {.kind = END},
    };

    return ask(netlink, RTM_NEWLINK, 0, &link, sizeof link, parts);
}
