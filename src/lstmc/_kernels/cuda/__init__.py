"""The kernels of a GPU, through CuPy.

``kernels`` has the functions of cpu.py under the same names. ``cells`` lists the cells, ``ways`` runs a
layer's steps, ``stepper`` single ones; ``launch`` compiles and launches, ``products`` multiplies, ``checks``
checks what callers pass. The sources are beside them: a cell's file (lstm.cu, rnn.cu) includes what runs it
over time (sequence.cuh, persistent.cuh, cooperative.cuh), flat.cu has the rest.
"""
