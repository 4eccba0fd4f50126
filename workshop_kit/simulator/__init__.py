"""The hardware we do not have: an infrastructure with its keys, an NSM, enclaves as processes, a parent instance.

It swaps the trust anchor and never a check: what it signs is appraised by the code that appraises AWS's documents, and
says in its own bytes that it is simulated. For learning; it guards no secret.
"""
