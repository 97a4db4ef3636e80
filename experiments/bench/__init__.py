"""How fast a model is and what memory it takes, against a peer and against this machine's own ceilings, in one run."""
