"""From releases to batches: finding a builder, features, codes, augmentation and collation."""
