/* SPDX-License-Identifier: GPL-3.0-or-later
 * Requests to rtnetlink(7), and what both kinds of device have in common. */
#ifndef AVNE_NETLINK_H
#define AVNE_NETLINK_H

#include <linux/rtnetlink.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TUN_MTU = 65520,                      /* avne/limits.py has the same */
    TUN_QUEUE = 8192,
    LOOPBACK = 1                          /* the index of lo, in every network namespace */
};

#define TUN_NAME "tun0"

/* An attribute of a request: a value; one that holds those up to CLOSE, and perhaps a head; the end of all. */
struct part {
    enum { VALUE, OPEN, CLOSE, END } kind;
    uint16_t type;
    const void *data;
    uint16_t size;
};

int open_netlink(void);
int ask(int netlink, uint16_t type, uint16_t flags, const void *body, size_t size, const struct part *parts);
int prepare_link(int netlink, int index, bool v6);
int bring_up(int netlink, int index);

#endif
