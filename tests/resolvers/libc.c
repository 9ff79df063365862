// SPDX-License-Identifier: GPL-3.0-or-later
// getaddrinfo(3) and getnameinfo(3) of whichever libc this is compiled with.  TYPE:NAME … → "TYPE:NAME = ANSWER".
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#ifndef EAI_NODATA
#define EAI_NODATA -5
#endif

static const char *word(int error)
{
    switch (error) {
    case EAI_NONAME: return "EAI_NONAME";
    case EAI_NODATA: return "EAI_NODATA";
    case EAI_AGAIN: return "EAI_AGAIN";
    case EAI_FAIL: return "EAI_FAIL";
    default: return gai_strerror(error);
    }
}

static void forward(const char *name, int family)
{
    struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_STREAM}, *found, *a;
    int error = getaddrinfo(name, NULL, &hints, &found);
    if (error) {
        printf("%s", word(error));
        return;
    }
    for (a = found; a; a = a->ai_next) {
        char text[INET6_ADDRSTRLEN];
        const void *bytes = family == AF_INET ? (const void *)&((struct sockaddr_in *)(void *)a->ai_addr)->sin_addr
                                              : (const void *)&((struct sockaddr_in6 *)(void *)a->ai_addr)->sin6_addr;
        printf("%s ", inet_ntop(family, bytes, text, sizeof text));
    }
    freeaddrinfo(found);
}

static void reverse(const char *address)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    char host[256];
    inet_pton(AF_INET, address, &v4.sin_addr);
    int error = getnameinfo((struct sockaddr *)&v4, sizeof v4, host, sizeof host, NULL, 0, NI_NAMEREQD);
    printf("%s", error ? word(error) : host);
}

int main(int argc, char **argv)
{
    for (int n = 1; n < argc; n++) {
        const char *name = strchr(argv[n], ':') + 1;
        printf("%s = ", argv[n]);
        if (!strncmp(argv[n], "PTR:", 4))
            reverse(name);
        else
            forward(name, strncmp(argv[n], "A:", 2) ? AF_INET6 : AF_INET);
        printf("\n");
    }
    return 0;
}
