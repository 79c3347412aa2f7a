"""The C kernels and their binding. Private: the public face is ``lstmc`` itself."""
