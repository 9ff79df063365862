# SPDX-License-Identifier: GPL-3.0-or-later
"""How the netstack and the workers give up what they do not need, before the first byte of a program comes.

Theory of operation, in the order in which a part does it:

1. everything is imported, the configuration is read, the descriptors are there;
2. `sandbox.isolate`, with one thread: rlimits; namespaces of its own; an empty root; an unprivileged user
   where root has started it; no capability, no new privileges; Landlock, where the kernel has it;
3. the part makes its sockets and threads, and goes once through all that it will ever do (its `warm_up`);
4. `sandbox.seal`: the threads have parked; non-dumpable; the seccomp filter, for all threads.

What a part may ask of the kernel stands beside the code that asks for it: a module that makes system calls
has ``SYSCALLS``, of names and `rules.Call`.  A part's policy is the sum of its modules' (`rules.gather`),
with the interpreter's own (runtime.py); everything else kills the process.
"""
