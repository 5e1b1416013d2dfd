"""Linear attention: the recurrence in three forms, attention by kernels, and the random features of Performers."""
