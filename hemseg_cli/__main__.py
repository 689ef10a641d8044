"""`python -m hemseg_cli`: what `torchrun -m` starts."""

from hemseg_cli.app import main

if __name__ == "__main__":
    main()
