"""Data sets: facts and readers (`catalog`), the one builder, transforms, the input pipeline."""
