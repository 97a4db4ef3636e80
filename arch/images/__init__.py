"""From a picture in a file to what a model reads: pixels, crops, and the places of its tokens in a text."""
