"""How workloads roll: pure, deterministic, without a clock, a network or a cluster.

shape         what a controller reads of a workload before it moves a pod
timings       what things take: the timings file
pod           the life of one pod
controllers   each controller's rule
risk          what a rollout may lose
path          what its time is spent on
simulation    all of it: `simulate`
"""
