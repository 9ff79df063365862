// SPDX-License-Identifier: GPL-3.0-or-later
/* The environment's one device and the network around it: constants, the same for every user.
 *
 * In a network namespace of our own, with its CAP_NET_ADMIN.  The device is a tun, or, where that is out
 * of reach, one end of a veth pair.  It lives as long as its descriptor, which goes to the supervisor.
 */
#define _GNU_SOURCE
#include "helper.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    TUN_MTU = 65520,           // avne/limits.py has the same
    TUN_QUEUE = 8192,
    LOOPBACK = 1,              // the index of lo, in every network namespace
    PACKET_ROOM = 32 << 20     // of packets that wait in a packet socket
};

#define TUN_NAME "tun0"
#define STACK_NAME "stack0"
// Of the ends of a veth pair; avne/netstack/wire/ethernet.py has the same.
#define STACK_MAC 0x02, 0x61, 0x76, 0x6e, 0x65, 0x01
#define TUN_MAC 0x02, 0x61, 0x76, 0x6e, 0x65, 0x02
#define NETWORK_V4 10, 213, 0
#define NETWORK_V6 0xfd, 0x61, 0x76, 0x6e, 0x65, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0

// ---- rtnetlink(7): a handful of fixed requests -------------------------------------------------

static struct {
    struct nlmsghdr head;
    char room[256];            // our largest request has 150 bytes
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
    const unsigned flags = index == LOOPBACK ? IFF_UP : IFF_UP | IFF_NOARP;  // a tun has no ARP anyway
    const struct ifinfomsg link = {.ifi_index = index, .ifi_flags = flags, .ifi_change = flags};

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

// ---- the device --------------------------------------------------------------------------------

static int open_tun(enum mode mode)
{
    int fd, error;

    // The one file that a user may need us for: many machines keep it at 0600.
    if (mode == SETUID)
        reach_files_as(0);
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    error = errno;
    if (mode == SETUID)
        reach_files_as(getuid());
    errno = error;
    return fd;
}

static void make_tun(int fd)
{
    struct ifreq wish = {.ifr_name = TUN_NAME, .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
    const int header_size = 10, little_endian = 1;

    must(AVNE_STAGE_TUN_CONFIGURE, ioctl(fd, TUNSETIFF, &wish));
    must(AVNE_STAGE_TUN_CONFIGURE, ioctl(fd, TUNSETVNETHDRSZ, &header_size));
    must(AVNE_STAGE_TUN_CONFIGURE, ioctl(fd, TUNSETVNETLE, &little_endian));
    must(AVNE_STAGE_TUN_CONFIGURE, ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6));
}

/* What a pair is asked for, one end here and the other in the namespace `there`.  The kernel sends to the
 * address of its own end, where there is no ARP: to the other end these packets are somebody else's. */
static int add_pair(int netlink, int there)
{
    const struct ifinfomsg link = {0};
    struct rtattr *info, *data, *peer;

    begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link, sizeof link);
    attribute(IFLA_IFNAME, STACK_NAME, sizeof STACK_NAME);
    attribute(IFLA_ADDRESS, (const uint8_t[]){STACK_MAC}, ETH_ALEN);
    info = open_nest(IFLA_LINKINFO);
    attribute(IFLA_INFO_KIND, "veth", sizeof "veth");
    data = open_nest(IFLA_INFO_DATA);
    peer = open_nest(VETH_INFO_PEER);
    (void)append(&link, sizeof link);
    attribute(IFLA_IFNAME, TUN_NAME, sizeof TUN_NAME);
    attribute(IFLA_ADDRESS, (const uint8_t[]){TUN_MAC}, ETH_ALEN);
    attribute(IFLA_NET_NS_FD, &there, sizeof there);
    close_nest(peer);
    close_nest(data);
    close_nest(info);
    return tell(netlink);
}

/* A socket that gets and sends whole frames at the interface, with the header that a tun has. */
static int open_packets(int index)
{
    const int on = 1, room = PACKET_ROOM;
    const struct sockaddr_ll end = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = index};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    must(AVNE_STAGE_VETH, fd);
    must(AVNE_STAGE_VETH, setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on));
    must(AVNE_STAGE_VETH, setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on));
    // There is no queue before it: as much as may be had, by force where we are root.
    must(AVNE_STAGE_VETH, setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room));
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) < 0)
        must(AVNE_STAGE_VETH, setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room));
    must(AVNE_STAGE_VETH, bind(fd, (const struct sockaddr *)&end, sizeof end));
    return fd;
}

/* The other end is alone in a namespace that has no address, and where nobody is.  It is the socket
 * that keeps it: with its last descriptor the namespace goes, and the pair with it. */
static int make_veth(void)
{
    const int environment = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    int netlink, index, packets;

    must(AVNE_STAGE_VETH, environment);
    must(AVNE_STAGE_VETH, unshare(CLONE_NEWNET));
    netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    must(AVNE_STAGE_VETH, netlink);
    (void)write_file(AT_FDCWD, "/proc/sys/net/ipv6/conf/default/disable_ipv6", 0, "1\n");
    must(AVNE_STAGE_VETH, add_pair(netlink, environment));
    index = (int)if_nametoindex(STACK_NAME);
    must(AVNE_STAGE_VETH, prepare_link(netlink, index, false));
    must(AVNE_STAGE_VETH, bring_up(netlink, index));
    packets = open_packets(index);
    (void)close(netlink);
    must(AVNE_STAGE_VETH, setns(environment, CLONE_NEWNET));
    (void)close(environment);
    return packets;
}

/* The descriptor of the device's other side; `no_tun`: 0, or the errno for which it is a packet socket. */
int make_device(enum mode mode, int *no_tun)
{
    const bool same_header = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;  // a packet socket's is the machine's
    int fd = open_tun(mode);

    *no_tun = fd < 0 ? errno : 0;
    if (fd >= 0)
        make_tun(fd);
    else if (mode != SETUID && same_header)
        fd = make_veth();
    else
        fail(AVNE_STAGE_TUN_OPEN, *no_tun);
    return fd;
}

// ---- the network around it ---------------------------------------------------------------------

static bool kernel_has_v6(void)
{
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd >= 0)
        (void)close(fd);
    return fd >= 0;
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
