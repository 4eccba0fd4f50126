"""Formats: what an Attester says, read strictly and written exactly. Nothing here judges."""
