"""Where weights come from: records, cache, download, and reading files safely."""
