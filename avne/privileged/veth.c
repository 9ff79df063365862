// SPDX-License-Identifier: GPL-3.0-or-later
/* What takes the place of a tun that is out of reach: a veth pair, and a packet socket at its other end.
 *
 * Never when setuid: a packet socket is for who has CAP_NET_RAW somewhere, and there the caller has not.
 */
#define _GNU_SOURCE
#include "helper.h"
#include "netlink.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PACKET_ROOM = 32 << 20 };          // of packets that wait in the socket

#define STACK_NAME "stack0"
// avne/netstack/wire/ethernet.py has the same.
static const uint8_t stack_mac[ETH_ALEN] = {0x02, 0x61, 0x76, 0x6e, 0x65, 0x01};
static const uint8_t tun_mac[ETH_ALEN] = {0x02, 0x61, 0x76, 0x6e, 0x65, 0x02};

/* One end here, the other in the namespace `there`.  Where there is no ARP the kernel sends to the address of
 * its own end: for the kernel at the other end these packets are somebody else's, and it drops them. */
static int add_pair(int netlink, int there)
{
    const struct ifinfomsg link = {0};
    const struct part parts[] = {
        {VALUE, IFLA_IFNAME, STACK_NAME, sizeof STACK_NAME},
        {VALUE, IFLA_ADDRESS, stack_mac, sizeof stack_mac},
        {.kind = OPEN, .type = IFLA_LINKINFO},
        {VALUE, IFLA_INFO_KIND, "veth", sizeof "veth"},
        {.kind = OPEN, .type = IFLA_INFO_DATA},
        {OPEN, VETH_INFO_PEER, &link, sizeof link},
        {VALUE, IFLA_IFNAME, TUN_NAME, sizeof TUN_NAME},
        {VALUE, IFLA_ADDRESS, tun_mac, sizeof tun_mac},
        {VALUE, IFLA_NET_NS_FD, &there, sizeof there},
        {.kind = CLOSE},
        {.kind = CLOSE},
        {.kind = CLOSE},
        {.kind = END},
    };

    return ask(netlink, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link, sizeof link, parts);
}

/* It gets and sends whole frames at the interface, with the header before them that a tun has. */
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

/* The socket's end is alone in a namespace that has no address, and where nobody is.  It is the socket that
 * keeps this namespace: with its last descriptor that goes, and the pair with it. */
int make_veth(void)
{
    const int environment = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    int netlink, index, packets;

    must(AVNE_STAGE_VETH, environment);
    must(AVNE_STAGE_VETH, unshare(CLONE_NEWNET));
    netlink = open_netlink();
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
