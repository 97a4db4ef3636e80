"""Speed and memory of a model, compared with a peer and with this machine's ceilings, all measured in one run."""
