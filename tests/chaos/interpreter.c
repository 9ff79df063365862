// SPDX-License-Identifier: GPL-3.0-or-later
/* The interpreter of a virtual environment with LIBRARY before all others: sys.executable stays this file. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    (void)argc;
    if (setenv("LD_PRELOAD", LIBRARY, 1) == 0)
        (void)execv(PYTHON, argv);
    perror(PYTHON);
    return 127;
}
