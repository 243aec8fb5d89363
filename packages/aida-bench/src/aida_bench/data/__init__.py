"""One data set a file: fetch, verify the checksum, load into memory."""
