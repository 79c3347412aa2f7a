"""Times lstmc against another version of itself. The worker imports nothing that an older one may lack."""
