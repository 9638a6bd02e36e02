"""A disk that fails when it is told to, under real code: kills, full disks, failed syncs and power cuts at any point.

`faulty_disk.c` sits between a process and the C library and counts what is done to files below one directory. A
`Subject` (subject.py) is a store with some work for it, `fork_server.py` runs cases in processes of their own,
`trials.py` is what happens in them, `power_cut.py` says what the disk may hold after the power has gone.
"""
