"""The report of a study: one page that works without other files, and its pictures."""
