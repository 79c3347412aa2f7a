"""The machine: what it is, and how fast it multiplies matrices and reads memory."""
