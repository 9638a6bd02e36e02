"""The sync server: places nodes on the rings and introduces them; carries no messages and no files."""
