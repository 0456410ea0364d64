"""For tests of the journal and of what is built on it: stores, clocks, a real daemon."""
