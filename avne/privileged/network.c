// SPDX-License-Identifier: GPL-3.0-or-later
/* The tun device and the network around it: constants, the same for every user.
 *
 * In a network namespace of our own, with its CAP_NET_ADMIN.  The device lives as long as its
 * descriptor, which goes to the supervisor.
 */
#define _GNU_SOURCE
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    TUN_MTU = 65520,           // avne/limits.py has the same
    TUN_QUEUE = 8192,
    LOOPBACK = 1               // the index of lo, in every network namespace
};

#define TUN_NAME "tun0"
#define NETWORK_V4 10, 213, 0
#define NETWORK_V6 0xfd, 0x61, 0x76, 0x6e, 0x65, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0

int make_tun(enum mode mode)
{
    struct ifreq wish = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
    const int header_size = 10, little_endian = 1;
    int fd, error;

    // The one file that a user may need us for: many machines keep it at 0600.
    if (mode == SETUID)
        reach_files_as(0);
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    error = errno;
    if (mode == SETUID)
        reach_files_as(getuid());
    if (fd < 0)
        fail(AVNE_STAGE_TUN_OPEN, error);
    memcpy(wish.ifr_name, TUN_NAME, sizeof TUN_NAME);
    must(AVNE_STAGE_TUN_CONFIGURE, ioctl(fd, TUNSETIFF, &wish));
    must(AVNE_STAGE_TUN_CONFIGURE, ioctl(fd, TUNSETVNETHDRSZ, &header_size));
    must(AVNE_STAGE_TUN_CONFIGURE, ioctl(fd, TUNSETVNETLE, &little_endian));
    must(AVNE_STAGE_TUN_CONFIGURE, ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6));
    return fd;
}

// ---- rtnetlink(7): a handful of fixed requests -------------------------------------------------

static struct {
    struct nlmsghdr head;
    char room[256];            // our largest request has 100 bytes
} ask;

static void *append(const void *data, size_t size)
{
    uint32_t at = NLMSG_ALIGN(ask.head.nlmsg_len);

    if (at + size > sizeof ask)
        abort();
    ask.head.nlmsg_len = at + (uint32_t)size;
    return memcpy((char *)&ask + at, data, size);
}

static void begin(uint16_t type, uint16_t flags, const void *body, size_t size)
{
    memset(&ask, 0, sizeof ask);
    ask.head = (struct nlmsghdr){
        .nlmsg_len = NLMSG_HDRLEN, .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags};
    (void)append(body, size);
}

static void attribute(uint16_t type, const void *data, uint16_t size)
{
    const struct rtattr head = {.rta_len = (uint16_t)RTA_LENGTH(size), .rta_type = type};

    (void)append(&head, sizeof head);
    (void)append(data, size);
}

static struct rtattr *open_nest(uint16_t type)
{
    const struct rtattr head = {.rta_len = RTA_LENGTH(0), .rta_type = type | NLA_F_NESTED};

    return append(&head, sizeof head);
}

static void close_nest(struct rtattr *nest)
{
    nest->rta_len = (uint16_t)((char *)&ask + ask.head.nlmsg_len - (char *)nest);
}

static int tell(int netlink)
{
    struct {
        struct nlmsghdr head;
        struct nlmsgerr result;
    } answer;                  // when it failed our request follows, and is cut off

    if (send(netlink, &ask, ask.head.nlmsg_len, 0) < 0)
        return -1;
    if (recv(netlink, &answer, sizeof answer, 0) < (ssize_t)NLMSG_LENGTH(sizeof answer.result)
        || answer.head.nlmsg_type != NLMSG_ERROR) {
        errno = EPROTO;
        return -1;
    }
    errno = -answer.result.error;
    return answer.result.error ? -1 : 0;
}

static int bring_up(int netlink, int index)
{
    const struct ifinfomsg link = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};

    begin(RTM_NEWLINK, 0, &link, sizeof link);
    return tell(netlink);
}

/* No link-local address means no router solicitation: the device is silent until the program speaks. */
static int prepare_link(int netlink, int index, bool v6)
{
    const struct ifinfomsg link = {.ifi_index = index};
    const uint32_t mtu = TUN_MTU, queue = TUN_QUEUE;
    const uint8_t no_address = IN6_ADDR_GEN_MODE_NONE;

    begin(RTM_NEWLINK, 0, &link, sizeof link);
    attribute(IFLA_MTU, &mtu, sizeof mtu);
    attribute(IFLA_TXQLEN, &queue, sizeof queue);
    if (v6) {
        struct rtattr *families = open_nest(IFLA_AF_SPEC);
        struct rtattr *family = open_nest(AF_INET6);
        attribute(IFLA_INET6_ADDR_GEN_MODE, &no_address, sizeof no_address);
        close_nest(family);
        close_nest(families);
    }
    return tell(netlink);
}

static int add_address(int netlink, int index, uint8_t family, uint8_t prefix, const uint8_t *bytes)
{
    const struct ifaddrmsg address = {.ifa_family = family, .ifa_prefixlen = prefix,
                                      .ifa_flags = IFA_F_NODAD, .ifa_index = (uint32_t)index};
    const uint16_t size = family == AF_INET ? 4 : 16;

    begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &address, sizeof address);
    attribute(IFA_LOCAL, bytes, size);
    attribute(IFA_ADDRESS, bytes, size);
    return tell(netlink);
}

static int add_default_route(int netlink, int index, uint8_t family)
{
    static const char control[] = "reno";  // there in every kernel; bbr halves the speed on a lossless link
    const struct rtmsg route = {.rtm_family = family, .rtm_table = RT_TABLE_MAIN,
                                .rtm_protocol = RTPROT_STATIC, .rtm_scope = RT_SCOPE_LINK,
                                .rtm_type = RTN_UNICAST};
    const uint32_t out = (uint32_t)index;
    struct rtattr *metrics;

    begin(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &route, sizeof route);
    attribute(RTA_OIF, &out, sizeof out);
    metrics = open_nest(RTA_METRICS);
    attribute(RTAX_CC_ALGO, control, sizeof control);
    close_nest(metrics);
    return tell(netlink);
}

// Not by a socket: no process of avne's opens one for the internet, and a test holds it to that.
static bool kernel_has_v6(void)
{
    return access("/proc/sys/net/ipv6/conf/default", F_OK) == 0;
}

void make_network(void)
{
    static const uint8_t v4[] = {NETWORK_V4, 2}, v6[] = {NETWORK_V6, 2};
    const bool has_v6 = kernel_has_v6();
    const int index = (int)if_nametoindex(TUN_NAME);
    const int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

    must(AVNE_STAGE_TUN_CONFIGURE, index ? netlink : -1);
    must(AVNE_STAGE_TUN_CONFIGURE, prepare_link(netlink, index, has_v6));
    // Inherited from the host where net.core.devconf_inherit_init_net says so.
    (void)write_file(AT_FDCWD, "/proc/sys/net/ipv6/conf/" TUN_NAME "/disable_ipv6", 0, "0\n");
    must(AVNE_STAGE_TUN_CONFIGURE, bring_up(netlink, index));
    must(AVNE_STAGE_ADDRESSES, bring_up(netlink, LOOPBACK));
    must(AVNE_STAGE_ADDRESSES, add_address(netlink, index, AF_INET, 30, v4));
    must(AVNE_STAGE_ROUTES, add_default_route(netlink, index, AF_INET));
    if (has_v6) {
        must(AVNE_STAGE_ADDRESSES, add_address(netlink, index, AF_INET6, 64, v6));
        must(AVNE_STAGE_ROUTES, add_default_route(netlink, index, AF_INET6));
    }
    (void)close(netlink);
}
