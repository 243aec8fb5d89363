"""Studies: tuned and paired comparisons of optimizers over tasks, declared in one TOML file.

spec        what a study's file may say
read        the file, checked
extend      a file that adds to another: the tables of both
space       quasi-random points in a space of settings, and wider ones
cells       which runs there are, stage by stage, given what has been found
records     finished runs, from their folders and from committed rows
run         carry the cells out, on this machine, on several, on Ray
status      what is done, what is left, and what it costs
statistics  corrected differences, aggregates over tasks, the worth of tuning: formulas alone
scores      one task's final scores, by seed
stepsizes   spreads of stepsizes, and the share at the cap
claims      verdicts on registered claims
report      the page, its tables and figures
"""
