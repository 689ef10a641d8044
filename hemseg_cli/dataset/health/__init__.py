"""What `doctor` checks: machine, data set, one scan."""
