"""`attnbench run` on the command line: what it does, what it shows meanwhile and at its end."""
