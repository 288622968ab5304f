"""`make bench`: sharding against what the disk can do and against the loop that users have today, measured honestly.

`cases` says what is compared, `checkpoints` makes the sources. `rounds` runs the `contenders`: `quiet` brings the
machine into the same state before each, `children` gives each a process and takes its measures. `statistics` judges,
`results` holds what follows, `report` and `plot` show it.
"""
