"""What an enclave promises to its users: the manifest, who may ask for what, where it may send, what it starts with."""
