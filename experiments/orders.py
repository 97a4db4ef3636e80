"""What a run may be told between two steps. Plain words, so that a process can send them before it imports torch."""

# Save a checkpoint and end; the run goes on later.
STOP = "stop"
# End for good, without weights, and keep the curve: going on does not pay.
PRUNE = "prune"
# End at once and write nothing: somebody else does this run now.
ABANDON = "abandon"
