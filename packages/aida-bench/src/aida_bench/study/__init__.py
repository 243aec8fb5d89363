"""Studies: tuned and paired comparisons of optimizers over tasks, declared in one TOML file.

spec        the file, checked
space       quasi-random points in a space of settings, and wider ones
cells       which runs there are, stage by stage, given what has been found
records     finished runs, from their folders and from committed rows
settings    the chosen point of each optimizer on each task
run         carry the cells out, on this machine, on several, on Ray
status      what is done, what is left, and what it costs
"""
