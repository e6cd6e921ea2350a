"""The grid models x samplers x steps x text steps x prompts x seeds: planned, run here or on Ray, stored, resumed.

grid      what is asked for, from a TOML file or the command line; its units of work, the shards
cost      what it will take, before it is run
work      one shard: images of all its policies, which share what they have in common, and their metrics
rows      a shard's table
store     shards on the disk or in an object store, whole or not there; one run at a time
run       shards one after the other, or as Ray tasks
latency   seconds and FLOPs of whole calls and of their parts; `stopwatch` measures them
summary   what is stored, one line for each policy in each setting
report    its tables and Pareto plots; `pictures` its images, side by side

It imports ``images``, ``findings`` and what lies below. A column more is what ``work`` puts into its rows.
"""
