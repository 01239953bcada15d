"""The figures of the page, one file each: what is drawn, its caption, and its numbers as CSV."""
