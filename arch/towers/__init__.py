"""Vision towers: an image becomes the soft tokens that stand for it among a text's tokens. One file per tower."""
