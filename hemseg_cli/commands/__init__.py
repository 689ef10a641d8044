"""One thin module per sub-command: read the options, call one function, print its result."""
