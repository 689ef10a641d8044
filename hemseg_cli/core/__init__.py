"""What every part stands on: errors, console, files, cases, devices."""
