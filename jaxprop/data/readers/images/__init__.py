"""The reader `images`: one file a layout on disk, one for decoding, one for labels."""
