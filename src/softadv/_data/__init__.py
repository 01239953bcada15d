"""Data sets as they lie on disk or come from elsewhere: finding, reading, downloading and checking them."""
