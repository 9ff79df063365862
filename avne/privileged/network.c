// SPDX-License-Identifier: GPL-3.0-or-later
/* The environment's one device and the network around it: constants, the same for every user.
 *
 * In a network namespace of our own, with its CAP_NET_ADMIN.  The device is a tun, or, where that is out
 * of reach, one end of a veth pair.  It lives as long as its descriptor, which goes to the supervisor.
 */
#define _GNU_SOURCE
#include "helper.h"
#include "netlink.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define NETWORK_V4 10, 213, 0
#define NETWORK_V6 0xfd, 0x61, 0x76, 0x6e, 0x65, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0

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

/* The descriptor of the device's other side; `no_tun`: 0, or the errno for which it is a packet socket. */
int make_device(enum mode mode, int *no_tun)
{
    const bool same_header = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;  // a packet socket's is the machine's
    const int fd = open_tun(mode);

    *no_tun = fd < 0 ? errno : 0;
    if (fd < 0 && (mode == SETUID || !same_header))
        fail(AVNE_STAGE_TUN_OPEN, *no_tun);
    if (fd < 0)
        return make_veth();
    make_tun(fd);
    return fd;
}

// ---- the network around it ---------------------------------------------------------------------

static int add_address(int netlink, int index, uint8_t family, uint8_t prefix, const uint8_t *bytes)
{
    const struct ifaddrmsg address = {.ifa_family = family, .ifa_prefixlen = prefix,
                                      .ifa_flags = IFA_F_NODAD, .ifa_index = (uint32_t)index};
    const uint16_t size = family == AF_INET ? 4 : 16;
    const struct part parts[] = {
        {VALUE, IFA_LOCAL, bytes, size}, {VALUE, IFA_ADDRESS, bytes, size}, {.kind = END}};

    return ask(netlink, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &address, sizeof address, parts);
}

static int add_default_route(int netlink, int index, uint8_t family)
{
    static const char control[] = "reno";  // there in every kernel; bbr halves the speed on a lossless link
    const struct rtmsg route = {.rtm_family = family, .rtm_table = RT_TABLE_MAIN,
                                .rtm_protocol = RTPROT_STATIC, .rtm_scope = RT_SCOPE_LINK,
                                .rtm_type = RTN_UNICAST};
    const struct part parts[] = {
        {VALUE, RTA_OIF, &index, sizeof index},
        {.kind = OPEN, .type = RTA_METRICS},
        {VALUE, RTAX_CC_ALGO, control, sizeof control},
        {.kind = CLOSE},
        {.kind = END},
    };

    return ask(netlink, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &route, sizeof route, parts);
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
    const int netlink = open_netlink();

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
