"""Everything that touches a socket: the client, the two proxies, the vsock and the NSM device."""
