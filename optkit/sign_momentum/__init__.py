"""Sign momentum."""

ENTRIES = ()
