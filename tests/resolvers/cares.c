// SPDX-License-Identifier: GPL-3.0-or-later
// c-ares, as libc.c: any type by ares_query(3).
#include <ares.h>
#include <arpa/nameser.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>

static const struct { const char *name; int type; } TYPES[] = {
    {"A", 1}, {"AAAA", 28}, {"MX", 15}, {"TXT", 16}, {"SRV", 33}, {"NS", 2}, {"SOA", 6}, {"CAA", 257}, {"HTTPS", 65}, {"PTR", 12},
};

static void print_address(const unsigned char *bytes, int family)
{
    char text[64];
    printf("%s ", ares_inet_ntop(family, bytes, text, sizeof text));
}

static void told(void *arg, int status, int timeouts, unsigned char *reply, int size)
{
    int type = *(int *)arg;
    struct hostent *host = NULL;
    (void)timeouts;
    if (status == ARES_SUCCESS && type == 1)
        status = ares_parse_a_reply(reply, size, &host, NULL, NULL);
    else if (status == ARES_SUCCESS && type == 28)
        status = ares_parse_aaaa_reply(reply, size, &host, NULL, NULL);
    if (status != ARES_SUCCESS)
        printf("%s", status == ARES_ENOTFOUND ? "ENOTFOUND" : status == ARES_ENODATA ? "ENODATA"
                     : status == ARES_ECONNREFUSED ? "ECONNREFUSED" : ares_strerror(status));
    else if (host)
        for (char **address = host->h_addr_list; *address; address++)
            print_address((unsigned char *)*address, host->h_addrtype);
    else
        printf("ok");
    if (host)
        ares_free_hostent(host);
}

int main(int argc, char **argv)
{
    ares_channel channel;
    ares_library_init(ARES_LIB_INIT_ALL);
    if (ares_init(&channel) != ARES_SUCCESS)
        return 1;
    for (int n = 1; n < argc; n++) {
        char *name = strchr(argv[n], ':') + 1;
        int type = 0;
        char reversed[64];
        unsigned a, b, c, d;
        for (size_t t = 0; t < sizeof TYPES / sizeof *TYPES; t++)
            if (strlen(TYPES[t].name) == (size_t)(name - argv[n] - 1) && !strncmp(argv[n], TYPES[t].name, strlen(TYPES[t].name)))
                type = TYPES[t].type;
        if (type == 12 && sscanf(name, "%u.%u.%u.%u", &a, &b, &c, &d) == 4) {
            snprintf(reversed, sizeof reversed, "%u.%u.%u.%u.in-addr.arpa", d, c, b, a);
            name = reversed;
        }
        printf("%s = ", argv[n]);
        ares_query(channel, name, 1, type, told, &type);
        for (;;) {
            fd_set in, out;
            struct timeval wait = {30, 0};
            FD_ZERO(&in);
            FD_ZERO(&out);
            int most = ares_fds(channel, &in, &out);
            if (!most)
                break;
            select(most, &in, &out, NULL, ares_timeout(channel, NULL, &wait));
            ares_process(channel, &in, &out);
        }
        printf("\n");
    }
    ares_destroy(channel);
    return 0;
}
