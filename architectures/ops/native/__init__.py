"""Operators in C++: what many small operators of PyTorch would do in as many passes over memory, in one.

They need a C++ compiler at run time and nothing else: a plain C interface, called by ctypes, without PyTorch's headers.
`library` builds one where it is first used and keeps it; where that cannot be, the operators in Python do the work.
"""
