"""The drawing behind the toy_street data set: canvas, street, things, and whole scenes."""
