"""The report of a study, from its rows alone: the same rows give the same bytes.

table     a table as Markdown and as CSV
scores    tables of final scores, differences, aggregates over tasks, times to the target
tuning    tables of every point tried, of what was chosen, and of what more points are worth
figures   forest plot, performance profile, tuning curves, scores by one setting
page      the page that is read in three minutes
write     all of it into a folder
"""
