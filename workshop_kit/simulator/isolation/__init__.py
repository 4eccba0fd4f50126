"""What keeps an enclave's app away from the machine, from plain Python and without root.

    namespaces   a network, a process tree and a file tree of its own; the app sees nothing else
    landlock     of the files that are left, which may be read and which may be written
    seccomp      which system calls are left, and which kinds of socket

Each layer alone has holes: a network of one's own does not close Unix sockets with names nor vsock, Landlock knows TCP
only, and seccomp knows no file names. `levels` puts them together and says what was obtained.
"""
